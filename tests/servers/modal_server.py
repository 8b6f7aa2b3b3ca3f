"""Modal for tests: the service of the wheel's own protocol, as far as `modal run` and a container ask for it.

A call of a Function starts a container: a process of the wheel's own container program with the environment that the
Function's Secrets give. Failed inputs are put back as the Function's retry policy says, without its delays.
"""

# ruff: noqa: N802 (methods have the protocol's names)

import asyncio
import os
import signal
import sys
import threading
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpclib
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib.server import Server, Stream
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE


# What is always answered alike.
_ENVIRONMENT = api_pb2.EnvironmentMetadata(
    name="main", settings=api_pb2.EnvironmentSettings(image_builder_version="2025.06")
)
_ANSWERS: dict[str, Message] = {
    "ClientHello": api_pb2.ClientHelloResponse(),
    "EnvironmentGetOrCreate": api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=_ENVIRONMENT),
    "AppCreate": api_pb2.AppCreateResponse(app_id="ap-1", app_page_url="http://modal.test/ap-1"),
    "AppHeartbeat": Empty(),
    "AppPublish": api_pb2.AppPublishResponse(url="http://modal.test/ap-1"),
    "MountBatchedCheckExistence": api_pb2.MountBatchedCheckExistenceResponse(),
    "MountGetOrCreate": api_pb2.MountGetOrCreateResponse(mount_id="mo-1"),
    "VolumeGetOrCreate": api_pb2.VolumeGetOrCreateResponse(volume_id="vo-1"),
    "VolumeCommit": api_pb2.VolumeCommitResponse(),
    "ContainerHello": Empty(),
    "ContainerHeartbeat": api_pb2.ContainerHeartbeatResponse(),
    "TaskResult": Empty(),
}


def _fixed(name: str) -> Any:
    async def answer(self: "_Service", stream: Stream[Any, Any]) -> None:
        self.server.requests.append(await stream.recv_message())
        if name not in _ANSWERS:
            raise grpclib.GRPCError(grpclib.Status.UNIMPLEMENTED, f"{name} is not part of this test server")
        await stream.send_message(_ANSWERS[name])

    return answer


def _handle(function: Any) -> Message:
    return api_pb2.FunctionHandleMetadata(
        function_name=function.function_name,
        function_type=function.function_type,
        supported_input_formats=function.supported_input_formats,
        supported_output_formats=function.supported_output_formats,
    )


_Base: Any = type("_Base", (ModalClientBase,), {name: _fixed(name) for name in ModalClientBase.__abstractmethods__})


def _records(method: Any) -> Any:
    """*method* from the request to its answer, as the protocol has it; the request is written down."""

    async def handle(self: "_Service", stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        self.server.requests.append(request)
        await stream.send_message(await method(self, request))

    return handle


class ModalServer(AbstractContextManager["ModalServer"]):
    """``with ModalServer(folder) as server``, where containers import from *folder*. ``server.env`` is for `modal run`.

    *requests* are all messages that arrived, *secrets* those that have a name, and *container_env* is what the image
    puts into the environment. *retries* is how many of those that a Function may have are granted.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.requests: list[Message] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.container_env: dict[str, str] = {}
        self.retries = 10
        self.containers: list[asyncio.subprocess.Process] = []
        self.logs: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "ModalServer":
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    async def _start(self) -> str:
        self._server = Server([_Service(self)])
        await self._server.start("127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server._server.sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            for container in self.containers:
                if container.returncode is None:
                    container.kill()
            self._server.close()
            await self._server.wait_closed()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def env(self) -> dict[str, str]:
        return {"MODAL_SERVER_URL": self.url, "MODAL_TOKEN_ID": "ak-test", "MODAL_TOKEN_SECRET": "as-test"}

    def asked(self, kind: type[Message]) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    def preempt(self) -> None:
        """Interrupt the newest container, as Modal does before it takes a machine away."""
        self.containers[-1].send_signal(signal.SIGINT)


class _Service(_Base):
    def __init__(self, server: ModalServer) -> None:
        self.server = server
        self.functions: dict[str, api_pb2.Function] = {}
        self.env: dict[str, dict[str, str]] = {}  # by secret
        self.inputs: dict[str, api_pb2.FunctionGetInputsItem] = {}  # by function: what waits for a container
        self.outputs: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)  # by call
        self.log: asyncio.Queue[str | None] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()

    @_records
    async def AppClientDisconnect(self, request: Any) -> Message:
        self.log.put_nowait(None)
        return Empty()

    async def AppGetLogs(self, stream: Stream[Any, Any]) -> None:
        await stream.recv_message()
        while (line := await self.log.get()) is not None:
            entry = api_pb2.TaskLogs(data=line, file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
            await stream.send_message(api_pb2.TaskLogsBatch(entry_id="1", items=[entry]))
        await stream.send_message(api_pb2.TaskLogsBatch(app_done=True))

    @_records
    async def ImageGetOrCreate(self, request: Any) -> Message:
        result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(image_id=f"im-{len(self.server.requests)}", result=result)

    @_records
    async def SecretGetOrCreate(self, request: Any) -> Message:
        name = request.deployment_name
        if name and name not in self.server.secrets:
            raise grpclib.GRPCError(grpclib.Status.NOT_FOUND, f"Secret '{name}' not found in environment 'main'")
        secret_id = f"st-{name or len(self.env)}"
        self.env[secret_id] = self.server.secrets[name] if name else dict(request.env_dict)
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id)

    @_records
    async def FunctionPrecreate(self, request: Any) -> Message:
        return api_pb2.FunctionPrecreateResponse(
            function_id=f"fu-{request.function_name}", handle_metadata=_handle(request)
        )

    @_records
    async def FunctionCreate(self, request: Any) -> Message:
        function_id = f"fu-{request.function.function_name}"
        self.functions[function_id] = request.function
        ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)
        data = api_pb2.FunctionData(function_name=request.function.function_name, ranked_functions=[ranked])
        return api_pb2.FunctionCreateResponse(
            function_id=function_id, function_data=data, handle_metadata=_handle(request.function)
        )

    @_records
    async def FunctionMap(self, request: Any) -> Message:
        call_id, first = f"fc-{len(self.server.requests)}", request.pipelined_inputs[0]
        item = api_pb2.FunctionGetInputsItem(
            input_id=f"in-{call_id}", input=first.input, function_call_id=call_id, retry_count=0,
            function_call_invocation_type=request.function_call_invocation_type,
        )  # fmt: skip
        self.start_container(request.function_id, item)
        put = api_pb2.FunctionPutInputsResponseItem(idx=0, input_id=item.input_id)
        return api_pb2.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=[put])

    def start_container(self, function_id: str, item: api_pb2.FunctionGetInputsItem) -> None:
        self.inputs[function_id] = item
        self.tasks.add(asyncio.get_running_loop().create_task(self.container(function_id)))

    async def container(self, function_id: str) -> None:
        """Run the wheel's container program until it has handled the input that waits for it, or was interrupted."""
        server, function, item = self.server, self.functions[function_id], self.inputs[function_id]
        task_id = f"ta-{len(server.containers)}"
        arguments = server.source / f"{task_id}.arguments"
        arguments.write_bytes(
            api_pb2.ContainerArguments(
                task_id=task_id, function_id=function_id, app_id="ap-1", function_def=function,
                app_layout=api_pb2.AppLayout(),
            ).SerializeToString()
        )  # fmt: skip
        env = {
            "PATH": os.environ["PATH"],
            "MODAL_SERVER_URL": server.url,
            "MODAL_TASK_ID": task_id,
            "MODAL_IS_REMOTE": "1",
        }
        env |= {"MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments)} | server.container_env
        for secret_id in function.secret_ids:
            env |= self.env[secret_id]
        container = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "modal._container_entrypoint", cwd=server.source, env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        server.containers.append(container)
        assert container.stdout
        async for line in container.stdout:
            server.logs.append(line.decode())
            self.log.put_nowait(line.decode())
        await container.wait()
        if self.inputs.get(function_id) is item and not self.outputs[item.function_call_id].qsize():
            self.start_container(function_id, item)  # it was taken away: the same input again, and no retry is spent

    @_records
    async def FunctionGetInputs(self, request: Any) -> Message:
        return api_pb2.FunctionGetInputsResponse(inputs=[self.inputs[request.function_id]])

    @_records
    async def FunctionPutOutputs(self, request: Any) -> Message:
        output = request.outputs[0]
        function_id, item = next((i, one) for i, one in self.inputs.items() if one.input_id == output.input_id)
        del self.inputs[function_id]
        retries = min(self.server.retries, self.functions[function_id].retry_policy.retries)
        if output.result.status == FAILURE and item.retry_count < retries:
            again = api_pb2.FunctionGetInputsItem()
            again.CopyFrom(item)
            again.retry_count += 1
            self.start_container(function_id, again)
        else:
            self.outputs[item.function_call_id].put_nowait(output)
        return Empty()

    @_records
    async def FunctionGetOutputs(self, request: Any) -> Message:
        output = await self.outputs[request.function_call_id].get()
        item = api_pb2.FunctionGetOutputsItem(
            result=output.result, idx=0, input_id=output.input_id, data_format=output.data_format
        )
        return api_pb2.FunctionGetOutputsResponse(outputs=[item], last_entry_id="1-0")
