"""Best-fit-decreasing packing: rows into packs of at most *length* tokens, in windows so that memory stays bounded.

The rule is that of "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830): longest row first, each into the
pack with the least room that still holds it. Ties and windows follow TRL's ``pack_dataset``, so the packs are equal.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

# Rows packed together. TRL packs one batch of Dataset.map at a time: 1,000 rows.
WINDOW_ROWS = 1000
# More where those fill fewer packs than this: the last pack of a window stays half empty on average.
WINDOW_PACKS = 128
# Fewer where rows are very long, as a window stands in memory: 8 bytes a token.
WINDOW_TOKENS = 2**23


def pack(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Indices of the rows of each pack, for one window of rows whose *lengths* are 1..*length* tokens."""
    packs: list[list[int]] = []
    rooms: list[int] = []  # the distinct free sizes among open packs, ascending
    open_packs: dict[int, deque[list[int]]] = {}  # free tokens -> packs with just that room, oldest first
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        position = bisect_left(rooms, lengths[index])
        if position == len(rooms):
            room = length
            chosen: list[int] = []
            packs.append(chosen)
        else:
            room = rooms[position]
            chosen = open_packs[room].popleft()
            if not open_packs[room]:
                rooms.pop(position)
        chosen.append(index)
        left = room - lengths[index]
        if left:
            waiting = open_packs.setdefault(left, deque())
            if not waiting:
                insort(rooms, left)
            waiting.append(chosen)
    return packs
