"""Where rows come from: patterns, dataset cards, splits by name, several sources with weights, and what is refused."""

import itertools
import json
import random
from pathlib import Path

import pytest

from job.cli import main
from job.endpoints import refuse_endpoints
from job.environment import load_spec
from job.errors import BadData, BadSpec, NotFound
from job.facts.dataset import ROW_SUFFIXES, choose_files
from job.facts.patterns import matches
from job.facts.splits import splits_by_name
from job.inputs import Source, data_files, find_dataset
from job.prepare.mix import content_hash, copies, is_held_out
from job.prepare.read import Row, read_rows
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, PrepareTask
from job.storage import Snapshot, StoredFile, open_store
from job.uri import parse_uri
from tests.unit.conftest import CHATML, MakeTokenizer

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out"}
ROW = b'{"text": "x"}\n'


def choose(uri: str, *paths: str, card: str = "") -> list[str]:
    files = tuple(StoredFile(path, 1, "") for path in paths)
    return [file.path for file in choose_files(parse_uri(uri, "dataset"), Snapshot(files), card.encode())]


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.jsonl", "a.jsonl", True),
        ("*.jsonl", "sub/a.jsonl", False),
        ("**/*.jsonl", "a.jsonl", True),
        ("**/*.jsonl", "x/y/a.jsonl", True),
        ("**.jsonl", "x/y/a.jsonl", True),
        ("**", "x/y/a.jsonl", True),
        ("x/**", "x/y/a.jsonl", True),
        ("x/**", "y/x/a.jsonl", False),
        ("*/a-?.csv", "x/a-1.csv", True),
        ("a-[0-4].csv", "a-7.csv", False),
        ("./a.csv", "a.csv", True),
        ("[old]", "[old]/a.csv", True),
        ("**", ".cache/a.jsonl", False),
        (".cache/*", ".cache/a.jsonl", True),
        ("**", "__MACOSX/a.jsonl", False),
        ("**/**/**/**/**/**/**/**/**/**/**/x", "a/" * 2000 + "y", False),
        ("*a" * 50, "a" * 200 + "b", False),
    ],
)
def test_patterns_match_as_in_a_shell(pattern, path, fits):
    assert matches(pattern, path) is fits


def test_a_pattern_in_a_bucket_picks_its_objects(s3_server):
    for key in ("data/2024/a.jsonl", "data/2024/b.jsonl.gz", "data/2025/c.jsonl", "data/notes.txt"):
        s3_server.put("bucket", key, ROW)

    def found(uri: str) -> list[str]:
        return [file.path for file in find_dataset(uri).files]

    assert found("s3://bucket/data/2024/a.jsonl") == ["a.jsonl"]
    assert found("s3://bucket/data/2024/*.jsonl") == ["a.jsonl"]
    assert found("s3://bucket/data/**/*.jsonl") == ["2024/a.jsonl", "2025/c.jsonl"]
    assert found("s3://bucket/data") == ["2024/a.jsonl", "2024/b.jsonl.gz", "2025/c.jsonl"]
    assert found("s3://bucket/*/202[5-9]/*") == ["data/2025/c.jsonl"]
    with pytest.raises(NotFound, match=r"s3://bucket/data/\*\.csv matches none of the 4 files"):
        found("s3://bucket/data/*.csv")


def test_a_pattern_among_local_files_picks_them_and_hidden_ones_stay_out(tmp_path):
    for name in ("a.jsonl", "b.csv", ".c.jsonl", "sub/d.jsonl", ".git/e.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(ROW)

    source = find_dataset(f"{tmp_path}/**/*.jsonl")

    (name, other) = data_files([source], (), tmp_path / "cache")
    assert (name.name, other.name) == ("a.jsonl", "sub/d.jsonl")
    assert name.path == tmp_path / "a.jsonl"
    assert [file.path for file in find_dataset(str(tmp_path)).files] == ["a.jsonl", "b.csv", "sub/d.jsonl"]


def test_a_file_whose_name_looks_like_a_pattern_is_still_found(tmp_path):
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]" / "rows.jsonl").write_bytes(ROW)

    assert [file.path for file in find_dataset(f"{tmp_path}/run[1]/rows.jsonl").files] == ["run[1]/rows.jsonl"]


@pytest.mark.parametrize("suffix", ROW_SUFFIXES)
def test_whatever_counts_as_rows_can_be_read(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"\x00")

    try:
        rows = list(read_rows((DataFile(path=path, name=path.name, identity=""),)))
    except BadData as error:
        rows = [error]

    form = {".parquet": "Parquet", ".arrow": "Arrow", ".csv": "NUL", ".gz": "decompressed", ".zst": "decompressed"}
    assert form.get(path.suffix, "not valid JSON") in str(rows[0])


SHARDS = ("README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
          "data/test_sft-00000-of-00001.parquet")  # fmt: skip


def test_a_shards_name_tells_its_split():
    assert choose("org/rows", *SHARDS) == [*SHARDS[1:3]]
    assert choose("hf://datasets/org/rows?split=test_sft", *SHARDS) == [SHARDS[3]]


def test_other_words_for_a_split_are_known_and_other_splits_are_listed():
    assert choose("hf://datasets/o/n?split=validation", "dev.jsonl", "training.jsonl") == ["dev.jsonl"]
    with pytest.raises(NotFound, match=r"no split 'train'; it has test\. Add \?split="):
        choose("org/rows", "eval/a.jsonl", "README.md")


def test_a_file_or_a_pattern_on_the_hub_is_taken_whatever_its_split():
    assert choose("hf://datasets/o/n/test.jsonl", "test.jsonl") == ["test.jsonl"]
    assert choose("hf://datasets/o/n/data/*.jsonl", "test.jsonl", "train.jsonl") == ["test.jsonl", "train.jsonl"]


def test_a_repository_with_the_same_rows_in_two_formats_gives_one():
    assert choose("org/rows", "train.csv", "train.parquet") == ["train.parquet"]
    assert choose("org/rows", "train/a.json.gz", "train/b.jsonl", "train/c.csv") == ["train/a.json.gz", "train/b.jsonl"]


def test_names_tell_the_same_splits_as_to_the_datasets_library(tmp_path):
    from datasets.data_files import DataFilesDict, get_data_patterns

    rng = random.Random(1)
    words = ["train", "training", "test", "dev", "val", "valid", "eval", "retrain", "latest", "x", "data", "my-train"]
    words += ["test_1", "a.b", "trainer", "train-00000-of-00001", "foo-00000-of-00001", "2024 test", ".hidden", "__p__"]
    for number in range(150):
        root = tmp_path / str(number)
        paths = {"/".join(rng.choices(words, k=rng.choice((1, 1, 2, 3)))) + ".jsonl" for _ in range(rng.randint(1, 5))}
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        visible = [path for path in paths if not any(p.startswith((".", "__")) for p in Path(path).parts[:-1])]
        visible = [path for path in visible if not Path(path).name.startswith(".")]
        if visible:
            theirs = DataFilesDict.from_patterns(get_data_patterns(str(root)), base_path=str(root))
            # It lists a file once per pattern that matches, and would load it as often.
            expected = {str(split): {Path(f).relative_to(root).as_posix() for f in theirs[split]} for split in theirs}
            found = splits_by_name(sorted(paths))
            assert {split: set(files) for split, files in found.items()} == expected
            assert all(len(set(files)) == len(files) for files in found.values())


CARD = """---
language: en
dataset_info:
- config_name: en
  features: [{name: text, dtype: string}]
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: en/part-*
  - split: test
    path: [en/held-out/*.jsonl, "en/more.jsonl"]
- config_name: de
  data_dir: german
- config_name: plain
  data_files: plain/**
license: mit
---
# Rows
"""
FILES = ("README.md", "en/part-1.jsonl", "en/part-2.jsonl", "en/held-out/a.jsonl", "en/more.jsonl",
         "german/train.jsonl", "german/test.jsonl", "plain/x/y.jsonl")  # fmt: skip


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["en/part-1.jsonl", "en/part-2.jsonl"]),
        ("?split=test", ["en/held-out/a.jsonl", "en/more.jsonl"]),
        ("?config=de", ["german/train.jsonl"]),
        ("?config=de&split=test", ["german/test.jsonl"]),
        ("?config=plain", ["plain/x/y.jsonl"]),
    ],
)
def test_the_dataset_card_decides_over_names_and_as_the_datasets_library_reads_it(tmp_path, query, expected):
    from datasets import load_dataset_builder

    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(CARD if path == "README.md" else ROW.decode())
    uri = parse_uri(f"hf://datasets/org/rows{query}", "dataset")
    builder = load_dataset_builder(str(tmp_path), name=uri.config, cache_dir=str(tmp_path / "cache"))
    theirs = builder.config.data_files[uri.split or "train"]

    assert choose(str(uri), *FILES, card=CARD) == expected
    assert sorted(Path(path).relative_to(tmp_path).as_posix() for path in theirs) == expected


def test_an_unknown_configuration_or_split_of_the_card_is_not_found_and_the_known_are_listed():
    with pytest.raises(NotFound, match=r"no configuration 'fr'\. It has en, de, plain"):
        choose("hf://datasets/o/n?config=fr", *FILES, card=CARD)
    with pytest.raises(NotFound, match=r"no split 'validation'; it has train, test"):
        choose("hf://datasets/o/n?split=validation", *FILES, card=CARD)


def test_a_choice_between_configurations_is_the_users():
    card = CARD.replace("  default: true\n", "")

    with pytest.raises(BadSpec, match=r"several configurations: en, de, plain\. Add one: .*\?config=en"):
        choose("org/rows", *FILES, card=card)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("configs: [", "not valid YAML"),
        ("configs: " + "[" * 5000, "not valid YAML"),
        ("configs: 3", "list of entries"),
        ("configs: [{data_files: x}]", "list of entries"),
        ("configs: [{config_name: a, data_files: [{split: train}]}]", "without 'path'"),
        ("configs: [{config_name: a, data_files: {train: 3}}]", "without 'split'"),
        ("configs: [{config_name: a, data_files: [3]}]", "no paths"),
        ("configs: [{config_name: a, data_files: 'https://host/x.jsonl'}]", "points out of the repository"),
        ("configs: [{config_name: a, data_files: 'hf://datasets/o/other/x.jsonl'}]", "points out of the repository"),
        ("configs: [{config_name: a, data_files: '../../x.jsonl'}]", "points out of the repository"),
        ("configs: [{config_name: a, data_files: /etc/x.jsonl}]", "points out of the repository"),
        ("configs: [{config_name: a, data_files: gone-*.jsonl}]", "no file matches what README.md declares"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(block, reason):
    with pytest.raises((BadData, NotFound), match=reason):
        choose("org/rows", "train.jsonl", card=f"---\n{block}\n---\n")


def test_a_card_is_read_from_the_hub_at_the_revision_asked_for(hub_server):
    card = b"---\nconfigs:\n- config_name: default\n  data_files: chosen.jsonl\n---\n"
    commit = hub_server.add("datasets/org/rows", {"README.md": card, "chosen.jsonl": ROW, "train.jsonl": ROW})
    hub_server.repositories["datasets/org/rows"].commit("main", {"train.jsonl": ROW}, "no card any more")

    pinned = find_dataset(f"org/rows@{commit}")

    assert [file.path for file in pinned.files] == ["chosen.jsonl"]
    assert pinned.revision == commit
    assert [file.path for file in find_dataset("org/rows").files] == ["train.jsonl"]
    assert [file.path for file in find_dataset("hf://datasets/org/rows/*.jsonl").files] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("rows.zip", "archives are not unpacked"),
        ("rows.tar.gz", "archives are not unpacked"),
        ("rows.7z", "archives are not unpacked"),
        ("rows.py", "scripts are never run"),
        ("rows.pkl", "pickles run code"),
        ("rows.pt", "pickles run code"),
        ("rows.jsonl.bz2", "compressed in a way that is not read"),
        ("rows.parquet.gz", "compressed in a way that is not read"),
    ],
)
def test_what_must_not_be_opened_is_refused_by_name(path, reason):
    for uri in ("./folder", "s3://bucket/data", "org/rows", f"s3://bucket/{path}"):
        with pytest.raises(BadData, match=rf"holds no rows: {path} is .*{reason}"):
            choose(uri, "LICENSE", path)


def test_a_dataset_script_is_answered_with_the_hubs_own_copy_of_the_rows():
    with pytest.raises(BadData, match=r"hf://datasets/org/rows@refs%2Fconvert%2Fparquet"):
        choose("org/rows", "rows.py", "README.md")


def test_a_saved_dataset_dict_asks_for_one_of_its_splits():
    with pytest.raises(BadData, match=r"Name one of them, as in \./saved/train"):
        choose("./saved", "dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json")
    assert choose("./saved/train", "data-00000-of-00001.arrow", "state.json", "dataset_info.json") == [
        "data-00000-of-00001.arrow"
    ]


@pytest.mark.parametrize(
    "name", ["../rows.jsonl", "/etc/rows.jsonl", "a/../../rows.jsonl", "a\nb.jsonl", "\udcff.jsonl"]
)
def test_a_file_name_that_leads_out_of_its_folder_is_refused(name):
    uri = parse_uri("s3://bucket/data", "dataset")

    with pytest.raises(BadData, match="no safe name"):
        Source(uri, open_store(uri), (StoredFile(name, 1, ""),), None)


def test_an_object_named_like_a_local_file_never_stands_for_it(s3_server, tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(ROW)
    s3_server.put("bucket", f"data/{secret}", ROW)

    with pytest.raises(BadData, match="no safe name"):
        find_dataset("s3://bucket/data")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:8000/rows.jsonl", "nothing is downloaded from a web address"),
        ("https://host/rows.jsonl", "nothing is downloaded from a web address"),
        ("s3://169.254.169.254/latest/meta-data", "does not start with a bucket name"),
        ("s3://host:9000/bucket", "does not start with a bucket name"),
        ("s3://bucket/a%2f..%2Fb", "contains '..'"),
        ("s3://bucket/a%2Fb", "contains '%2F'"),
        ("s3://bucket/%2e/b", "contains '%2e'"),
        ("/data/a%5cb", "contains '%5c'"),
        ("/data/..\\etc", "contains '..'"),
        ("file:///data/%00x", "contains a control character"),
        ("hf://datasets/org/name/a%2fb", "contains '%2f'"),
        ("s3://bucket/x::http://host/y", "empty path segment"),
    ],
)
def test_a_uri_names_no_host_and_takes_no_hidden_step(uri, reason):
    with pytest.raises(ValueError, match=reason):
        parse_uri(uri, "dataset")


def test_a_revision_may_hold_an_encoded_slash():
    assert parse_uri("org/name@refs%2Fconvert%2Fparquet", "dataset").revision == "refs/convert/parquet"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT"])
@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.1.2:80", "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]", "2852039166",
     "0xa9fea9fe", "0251.0376.0251.0376", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "metadata.google.internal",
     "METADATA.google.internal.", "user:pass@169.254.169.254"],
)  # fmt: skip
def test_an_endpoint_is_never_where_a_machine_keeps_its_credentials(variable, host):
    with pytest.raises(BadSpec, match=rf"{variable} names .*credentials") as refusal:
        refuse_endpoints({variable: f"http://{host}/x"})
    assert "pass@" not in str(refusal.value)


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://metadata.google.internal"])
def test_such_an_endpoint_ends_the_job_with_78_before_anything_is_sent(capfd, endpoint):
    code = main([], GOOD | {"JOB_SPEC_URI": "s3://bucket/spec.yaml", "AWS_ENDPOINT_URL": endpoint})

    assert code == 78
    assert "AWS_ENDPOINT_URL names" in capfd.readouterr().out


def test_other_endpoints_are_the_operators_choice():
    for url in ("http://localhost:9000", "https://[::1]", "http://10.0.0.3", "https://minio.internal", ""):
        refuse_endpoints({"AWS_ENDPOINT_URL": url, "HF_ENDPOINT": url})
    with pytest.raises(BadSpec, match="HF_ENDPOINT is not a URL"):
        refuse_endpoints({"HF_ENDPOINT": "ftp://host"})


def test_several_sources_with_weights_are_lists_of_the_same_length():
    spec = load_spec(GOOD | {"JOB_DATASET_URI": "org/a, s3://bucket/x*", "JOB_DATASET_WEIGHTS": "1,0.5"})

    assert spec.dataset_uri == ("org/a", "s3://bucket/x*")
    assert spec.dataset_weights == (1.0, 0.5)
    assert load_spec(GOOD, {"dataset_uri": "org/b"}).dataset_uri == ("org/rows",)
    for settings, reason in (
        ({"JOB_DATASET_WEIGHTS": "1,2"}, "2 numbers for the 1 sources"),
        ({"JOB_DATASET_URI": "org/a,org/a"}, "JOB_DATASET_WEIGHTS"),
        ({"JOB_DATASET_WEIGHTS": "0"}, "greater than 0"),
        ({"JOB_DATASET_WEIGHTS": "nan"}, "JOB_DATASET_WEIGHTS=nan"),
        ({"JOB_DATASET_URI": "org/a,http://x/y"}, "nothing is downloaded"),
    ):
        with pytest.raises(BadSpec, match=reason):
            load_spec(GOOD | settings)


def test_files_of_several_sources_carry_the_whole_name(tmp_path, s3_server):
    s3_server.put("bucket", "a/rows.jsonl", ROW)
    (tmp_path / "rows.jsonl").write_bytes(ROW)
    sources = [find_dataset(uri) for uri in ("s3://bucket/a/rows.jsonl", "s3://bucket/a", str(tmp_path))]

    files = data_files(sources, (1, 2, 0.5), tmp_path / "cache")

    assert [file.name for file in files] == ["s3://bucket/a/rows.jsonl"] * 2 + [f"{tmp_path}/rows.jsonl"]
    assert [(file.source, file.weight) for file in files] == [(0, 1), (1, 2), (2, 0.5)]
    assert all(file.path.read_bytes() == ROW for file in files)


@pytest.mark.parametrize("weight", [0.25, 1, 1.5, 3])
def test_a_weight_is_the_share_of_rows_that_an_epoch_holds(weight):
    rows = [Row(f"f:{index}", {"text": str(index)}) for index in range(2000)]

    counts = [copies(row, weight, seed=42) for row in rows]

    assert sum(counts) == pytest.approx(weight * 2000, rel=0.1)
    assert set(counts) <= {int(weight), int(weight) + 1}
    assert counts == [copies(row, weight, seed=42) for row in rows]
    assert weight in (1, 3) or counts != [copies(row, weight, seed=43) for row in rows]


def test_the_rows_a_weight_picks_do_not_depend_on_those_held_out():
    rows = [Row(f"f:{index}", {"text": str(index)}) for index in range(4000)]
    trained = [row for row in rows if not is_held_out(content_hash(row, 42), 0.5)]

    assert sum(copies(row, 0.5, 42) for row in trained) == pytest.approx(len(trained) / 2, rel=0.1)


def sources_task(tmp_path: Path, tokenizer: Path, weights: tuple[float, ...], **settings: object) -> PrepareTask:
    """Two sources: 100 rows of text, and 10 of prompt and completion."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"a {n}"}) + "\n" for n in range(100)))
    pairs = ({"prompt": "p", "completion": f"b {n}"} for n in range(10))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = tuple(
        DataFile(path=tmp_path / name, name=name, identity="", source=number, weight=weights[number])
        for number, name in enumerate(("a.jsonl", "b.jsonl"))
    )
    defaults = {
        "columns": {}, "format": None, "response_template": None, "max_length": 64, "eval_fraction": 0.0, "seed": 1,
        "packing": False, "gate": GateSettings(bad_rows="fail", max_bad_fraction=1.0, allow=()),
    }  # fmt: skip
    return PrepareTask(train_files=files, tokenizer=tokenizer, tokenizer_identity="", **(defaults | settings))


def test_sources_of_different_formats_are_mixed_by_their_weights(tmp_path, make_tokenizer: MakeTokenizer):
    prepared = prepare(sources_task(tmp_path, make_tokenizer(CHATML), (0.5, 3)), tmp_path)

    assert prepared.format == "text, prompt-completion"
    assert prepared.train.rows - 30 == pytest.approx(50, abs=15)


def test_a_sample_shows_every_source(tmp_path, make_tokenizer: MakeTokenizer):
    prepared = prepare(sources_task(tmp_path, make_tokenizer(), (1, 1), row_limit=20), tmp_path)

    with_prompt = prepared.train.tokens - prepared.train.trained_tokens
    assert (prepared.train.rows, with_prompt) == (20, 10)


def test_held_out_rows_stand_once_whatever_the_weight(tmp_path, make_tokenizer: MakeTokenizer):
    once = prepare(sources_task(tmp_path, make_tokenizer(), (1, 1), eval_fraction=0.3), tmp_path)
    twice = prepare(sources_task(tmp_path, make_tokenizer(), (2, 2), eval_fraction=0.3), tmp_path)

    assert once.eval.rows == twice.eval.rows
    assert twice.train.rows == 2 * once.train.rows
    assert once.train.rows + once.eval.rows == 110


def test_bad_rows_are_counted_over_all_sources(tmp_path, make_tokenizer: MakeTokenizer):
    task = sources_task(tmp_path, make_tokenizer(), (1, 1))
    for file in task.train_files:
        file.path.write_text(file.path.read_text() + "{\n")

    with pytest.raises(BadData, match=r"(?s)2 rows cannot be used:.*b\.jsonl:11.*a\.jsonl:101"):
        prepare(task, tmp_path)


def test_every_pair_of_suffixes_in_a_folder_is_read_together():
    names = [f"rows-{number}{suffix}" for number, suffix in enumerate(ROW_SUFFIXES)]

    for pair in itertools.combinations(names, 2):
        assert choose("./folder", *pair) == sorted(pair)
