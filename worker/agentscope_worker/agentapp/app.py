"""AgentApp: a FastAPI application with the routes of an agent.

`@app.query` adds `POST /process`, whose stream can be stopped by `stop_chat`; `@app.endpoint` and `@app.task`
add routes of the project. Everything else is FastAPI's.

Read next: `running` for how a stream is stopped, and `events` for its format.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import logging
import time
import types
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.params import Depends
from fastapi.responses import StreamingResponse

from agentscope_worker.agentapp import default_agent, serving
from agentscope_worker.agentapp.adapters import (
    AgentCardWithRuntimeConfig,
    AGUIAdaptorConfig,
    ProtocolAdapter,
    extract_a2a_config,
)
from agentscope_worker.agentapp.deployers import DeployManager, DeploymentMode
from agentscope_worker.agentapp.dialect_adapters import AGUIDefaultAdapter, ResponseAPIDefaultAdapter
from agentscope_worker.agentapp.endpoints import endpoint_of, signature_of
from agentscope_worker.agentapp.interrupts import BaseInterruptBackend, LocalInterruptBackend
from agentscope_worker.agentapp.runner import FRAMEWORKS, Runner, awaited
from agentscope_worker.agentapp.running import InterruptMixin, Run
from agentscope_worker.agentapp.schemas import AgentRequest, AgentResponse, Error, Event
from agentscope_worker.agentapp.tasks import TaskRecords, Tasks
from agentscope_worker.agentapp.turns import SessionOrder

log = logging.getLogger(__name__)

INTERRUPTED = "INTERRUPTED"
"""The code in the last event of a stream that was stopped."""

_ENDED = ("completed", "failed")

Function = Callable[..., Any]


class AgentApp(FastAPI, InterruptMixin):
    # The name under which workers and projects know it.
    __module__ = "agentscope_runtime.engine.app.agent_app"

    def __init__(
        self,
        *,
        app_name: str = "AgentScope Runtime API",
        app_description: str = "",
        endpoint_path: str = "/process",
        response_type: str = "sse",
        stream: bool = True,
        request_model: type[Any] | None = AgentRequest,
        before_start: Function | None = None,
        after_finish: Function | None = None,
        broker_url: str | None = None,
        backend_url: str | None = None,
        runner: Runner | None = None,
        enable_embedded_worker: bool = False,
        enable_stream_task: bool = False,
        stream_task_queue: str = "stream_query",
        stream_task_timeout: float | None = None,
        a2a_config: AgentCardWithRuntimeConfig | None = None,
        agui_config: AGUIAdaptorConfig | None = None,
        interrupt_backend: BaseInterruptBackend | None = None,
        interrupt_redis_url: str | None = None,
        lifespan: Callable[[Any], Any] | None = None,
        mode: DeploymentMode = DeploymentMode.DAEMON_THREAD,
        protocol_adapters: list[ProtocolAdapter] | None = None,
        custom_endpoints: Sequence[Mapping[str, Any]] | None = None,
        agent: Any = None,
        **kwargs: Any,
    ) -> None:
        """`agent`: an agent of AgentScope, which answers without a query handler. `kwargs`: FastAPI's own.
        Durations are in seconds."""
        FastAPI.__init__(
            self,
            **{"title": app_name, "description": app_description, "lifespan": self._lifespan, **kwargs},
        )
        self.app_name = app_name
        self.app_description = app_description
        self.endpoint_path = endpoint_path
        self.response_type = response_type
        self.stream = stream
        self.request_model = request_model
        self.before_start = before_start
        self.after_finish = after_finish
        self.broker_url = broker_url
        self.backend_url = backend_url
        self.enable_embedded_worker = enable_embedded_worker
        self.enable_stream_task = enable_stream_task
        self.stream_task_queue = stream_task_queue
        self.stream_task_timeout = stream_task_timeout
        self.deployment_mode = mode
        self.a2a_config = extract_a2a_config(a2a_config)
        self.agui_config = agui_config or AGUIAdaptorConfig()
        self.protocol_adapters: list[ProtocolAdapter] = protocol_adapters or [
            ResponseAPIDefaultAdapter(),
            AGUIDefaultAdapter(self.agui_config),
        ]
        self.turns = SessionOrder()
        self.celery_app = None  # of agentscope-runtime
        if broker_url or backend_url:
            log.warning("Celery is not supported: tasks run in this process, and broker_url is ignored")
        self._user_lifespan = lifespan
        self._tasks = Tasks()
        self._runner = runner or Runner()
        self._init_interrupt_service(interrupt_backend or _backend(interrupt_redis_url))
        self.add_middleware(
            CORSMiddleware,
            allow_origins=["*"],
            allow_credentials=True,
            allow_methods=["*"],
            allow_headers=["*"],
        )
        self._add_own_routes()
        if runner is not None:
            self._add_process_route(runner.query_handler)
        if agent is not None:
            self.query(framework="agentscope")(default_agent.handler(agent))
        for each in custom_endpoints or ():
            self._restore(each)

    @property
    def active_tasks(self) -> TaskRecords:
        """The records of background tasks by id."""
        return self._tasks.records

    # The API of a project

    def query(self, framework: str = "agentscope") -> Callable[[Function], Function]:
        """Decorator: the function that answers `POST /process`, with the runner as `self`.

        Raises: ValueError for an unknown framework.
        """
        if framework not in FRAMEWORKS:
            raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}, not {framework!r}")

        def decorate(function: Function) -> Function:
            self._runner.framework_type = framework
            self._bind("query_handler", function)
            self._add_process_route(function)
            return function

        return decorate

    def init(self, func: Function) -> Function:
        """Decorator: called at the start, with the runner as `self`. New projects use `lifespan`."""
        self._bind("init_handler", func)
        return func

    def shutdown(self, func: Function) -> Function:
        """Decorator: called at the end, with the runner as `self`. New projects use `lifespan`."""
        self._bind("shutdown_handler", func)
        return func

    def endpoint(self, path: str, methods: Sequence[str] | None = None) -> Callable[[Function], Function]:
        """Decorator: a route, POST unless `methods` says otherwise; what a generator yields is streamed."""

        def decorate(function: Function) -> Function:
            self.add_api_route(
                path,
                endpoint_of(function),
                methods=list(methods or ["POST"]),
                response_model=None,
                tags=["custom"],
            )
            return function

        return decorate

    def task(self, path: str, queue: str = "celery") -> Callable[[Function], Function]:
        """Decorator: POST submits a call of the function as a task, GET `{path}/{task_id}` polls it."""

        def decorate(function: Function) -> Function:
            takes_request = bool(inspect.signature(function).parameters)

            async def submit(request: dict[str, Any]) -> Any:
                work = functools.partial(function, request) if takes_request else function
                id = self._tasks.submit(work, queue)["task_id"]
                message = f"Task {id} submitted to queue {queue}"
                return {"task_id": id, "status": "submitted", "queue": queue, "message": message}

            self._add_task_routes(path, submit, "custom")
            return function

        return decorate

    def run(self, host: str = "0.0.0.0", port: int = 8080, web_ui: bool = False, **kwargs: Any) -> NoReturn:
        """Serve this app: in a worker it is the app that is hosted; elsewhere this process becomes an
        instance of the project."""
        if web_ui:
            log.warning("web_ui is ignored; `agentscope run` has a console of its own")
        serving.serve(host, port)

    async def deploy(self, deployer: DeployManager, **kwargs: Any) -> Any:
        """Returns what the deployer returns: `deploy_id` and `url`."""
        return await deployer.deploy(app=self, runner=self._runner, **kwargs)

    # The stream of POST /process

    async def process(self, request: Mapping[str, Any], **dependencies: Any) -> AsyncGenerator[str, None]:
        """The server-sent events of the answer to a request, in its turn of the session.

        `dependencies`: what FastAPI has injected for parameters of the query handler.
        """
        try:
            agent_request = AgentRequest(**request)
            async for event in self.answer(agent_request, **dependencies):
                yield f"data: {event.model_dump_json()}\n\n"
        except Exception as error:
            log.exception("a request could not be answered")
            yield f"data: {json.dumps({'error': str(error)}, ensure_ascii=False)}\n\n"

    async def answer(self, request: AgentRequest, **dependencies: Any) -> AsyncIterator[Event]:
        """The events of the answer to a request, in its turn of the session; `stop_chat` stops them."""
        key = self._get_interrupt_key(request.user_id, request.session_id)
        if request.user_id is None and request.session_id is None:
            key = str(uuid.uuid4())  # a session of its own
        stream = self._runner.stream_query(request, **dependencies)
        run = await self._in_turn(key, stream)
        response: AgentResponse | None = None
        number = 0  # of the next event
        async with contextlib.aclosing(run.items()) as items:  # type: ignore[type-var]
            async for event in items:
                response = event if isinstance(event, AgentResponse) else response
                number += 1
                yield event
        if response is None:  # it was stopped before its first event
            response = AgentResponse(id=request.id, session_id=request.session_id)
        if run.was_interrupted and response.status not in _ENDED:
            yield _interrupted(response, number)

    async def _in_turn(self, key: str, stream: AsyncGenerator[Event, None]) -> Run:
        await self.turns.begin(key)
        try:
            run = await self._start_run(key, stream)
        except BaseException:
            self.turns.end(key)
            raise
        run.keeper.add_done_callback(lambda _: self.turns.end(key))
        return run

    # Routes

    def _add_own_routes(self) -> None:
        async def health() -> Any:
            mode = self.deployment_mode.value
            return {"status": "healthy", "mode": mode, "runner": "ready", "timestamp": time.time()}

        async def readiness() -> Any:
            return {"status": "ready"}

        async def liveness() -> Any:
            return {"status": "alive"}

        async def welcome() -> Any:
            path = self.endpoint_path
            endpoints = {"process": path, "health": "/health"}
            if self.enable_stream_task:
                endpoints |= {"task": f"{path}/task", "task_status": f"{path}/task/{{task_id}}"}
            return {
                "service": "AgentScope Runtime",
                "mode": self.deployment_mode.value,
                "endpoints": endpoints,
            }

        own = {"/health": health, "/readiness": readiness, "/liveness": liveness, "/": welcome}
        for path, answer in own.items():
            self.add_api_route(path, answer, methods=["GET"], response_model=None)

    def _add_process_route(self, function: Function) -> None:
        paths = (self.endpoint_path, f"{self.endpoint_path}/task", f"{self.endpoint_path}/task/{{task_id}}")
        self.router.routes[:] = [each for each in self.routes if getattr(each, "path", None) not in paths]

        async def process(request: dict[str, Any], **dependencies: Any) -> Any:
            return StreamingResponse(
                self.process(request, **dependencies),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )

        request, _ = inspect.signature(process, eval_str=True).parameters.values()
        injected = [
            each.replace(kind=each.KEYWORD_ONLY)
            for each in signature_of(function).parameters.values()
            if isinstance(each.default, Depends)
        ]
        process.__signature__ = inspect.Signature([request, *injected])  # type: ignore[attr-defined]
        process.__name__ = getattr(function, "__name__", process.__name__)
        process.__doc__ = function.__doc__
        self.add_api_route(
            self.endpoint_path, process, methods=["POST"], response_model=None, tags=["agent-api"]
        )
        if self.enable_stream_task:
            self._add_task_routes(f"{self.endpoint_path}/task", self._submit_query, "agent-api")

    async def _submit_query(self, request: dict[str, Any]) -> Any:
        """Submit a query as a task, whose result is its response. `timeout` in the body is in seconds."""
        timeout = request.pop("timeout", self.stream_task_timeout)
        work = functools.partial(self._queried, request)
        queue = self.stream_task_queue
        record = self._tasks.submit(work, queue, None if timeout is None else float(timeout))
        message = "Stream query task submitted successfully"
        return {"task_id": record["task_id"], "status": "submitted", "queue": queue, "message": message}

    async def _queried(self, request: dict[str, Any]) -> Any:
        return await self._runner.query(request)

    def _add_task_routes(self, path: str, submit: Callable[..., Awaitable[Any]], tag: str) -> None:
        async def status(task_id: str) -> Any:
            found = self._tasks.status(task_id)
            if found is None:
                raise HTTPException(404, f"Task {task_id} not found")
            return found

        self.add_api_route(path, submit, methods=["POST"], response_model=None, tags=[tag])
        self.add_api_route(f"{path}/{{task_id}}", status, methods=["GET"], response_model=None, tags=[tag])

    def _restore(self, endpoint: Mapping[str, Any]) -> None:
        """Add a route as agentscope-runtime describes it in `custom_endpoints`."""
        path = endpoint["path"]
        if endpoint.get("task_type"):
            self.task(path, endpoint.get("queue", "celery"))(endpoint["original_func"])
        else:
            self.endpoint(path, endpoint.get("methods"))(endpoint["handler"])

    # The life of the app

    def _bind(self, name: str, function: Function) -> None:
        setattr(self._runner, name, types.MethodType(function, self._runner))

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[Any]:
        """The runner and the hooks of the project, around the project's own lifespan."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close_interrupt_service)
            stack.push_async_callback(self._end_runs)
            await stack.enter_async_context(self._runner)
            if self.before_start is not None:
                await awaited(self.before_start(app))
            if self.after_finish is not None:
                stack.push_async_callback(self._finish, app)
            stack.push_async_callback(self._tasks.close)
            for adapter in self.protocol_adapters:
                adapter.add_endpoint(app=self, func=self.answer)
            state = None
            if self._user_lifespan is not None:
                state = await stack.enter_async_context(self._user_lifespan(app))
            yield state or {}

    async def _finish(self, app: FastAPI) -> None:
        assert self.after_finish is not None
        await awaited(self.after_finish(app))

    async def _end_runs(self) -> None:
        """Stop the runs that outlived their clients, and let them record their states."""
        for producer in self._local_tasks.values():
            producer.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)


def _backend(redis_url: str | None) -> BaseInterruptBackend:
    if redis_url is None:
        return LocalInterruptBackend()
    from agentscope_worker.agentapp.redis_interrupts import RedisInterruptBackend

    return RedisInterruptBackend(redis_url)


def _interrupted(response: AgentResponse, number: int) -> Event:
    """The end of a stream that was stopped. `response`: its beginning."""
    ended = response.model_copy(update={"sequence_number": number})
    ended.error = Error(code=INTERRUPTED, message="the run was stopped")
    return ended.canceled()
