"""`app.deploy(…)`: LocalDeployManager starts an instance; those for clouds name what to do instead."""

from __future__ import annotations

import enum
import uuid
from abc import ABC, abstractmethod
from typing import Any, Final, NoReturn

from agentscope_worker.agentapp import serving


class DeploymentMode(enum.StrEnum):
    """The life of the instance that `deploy` starts: DAEMON_THREAD ends with this process, others go on."""

    DAEMON_THREAD = "daemon_thread"
    DETACHED_PROCESS = "detached_process"
    STANDALONE = "standalone"


class DeployManager(ABC):
    def __init__(self, state_manager: Any = None) -> None:
        self.deploy_id = str(uuid.uuid4())
        self.state_manager = state_manager

    @abstractmethod
    async def deploy(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """Returns `deploy_id` and `url`."""

    @abstractmethod
    async def stop(self, deploy_id: str, **kwargs: Any) -> dict[str, Any]:
        """Returns `success` and `message`."""


class LocalDeployManager(DeployManager):
    """Starts an instance of the project on this host.

    Timeouts are in seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8090,
        shutdown_timeout: int = 30,
        startup_timeout: int = 30,
        logger: Any = None,
    ) -> None:
        super().__init__()
        self.host: Final = host
        self.port: Final = port
        self._shutdown_timeout: Final = shutdown_timeout
        self._startup_timeout: Final = startup_timeout
        self._deployed: dict[str, serving.Deployed] = {}

    @property
    def is_running(self) -> bool:
        return bool(self._deployed)

    async def deploy(
        self,
        app: Any = None,
        runner: Any = None,
        mode: DeploymentMode = DeploymentMode.DAEMON_THREAD,
        **kwargs: Any,
    ) -> dict[str, str]:
        """Raises: RuntimeError if the instance does not start."""
        instance = serving.Deployed(self.host, self.port)
        if mode is DeploymentMode.DAEMON_THREAD:
            instance.stop_with_this_process()
        await instance.ready(self._startup_timeout)
        self._deployed[self.deploy_id] = instance
        return {"deploy_id": self.deploy_id, "url": instance.url}

    async def stop(self, deploy_id: str, **kwargs: Any) -> dict[str, Any]:
        instance = self._deployed.pop(deploy_id, None)
        if instance is None:
            return {"success": False, "message": f"no deployment has the id {deploy_id}"}
        await instance.stop(self._shutdown_timeout)
        return {"success": True, "message": f"{instance.url} has stopped"}


class _Unavailable:
    """A name of agentscope-runtime without an implementation here; `instead` says what to do."""

    instead = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise NotImplementedError(
            f"{cls.__name__} is not part of the AgentApp of agentscope-supervisor: {cls.instead}"
        )


class _OnKubernetes(_Unavailable):
    instead = (
        "deploy the image of the project with the manifests in configs/kubernetes; see the guide Kubernetes"
    )


class _InCloud(_Unavailable):
    instead = (
        "pack the project with `agentscope-supervisor pack`, or build its image, and upload it to the cloud; "
        "see the guide Containers"
    )


class KubernetesDeployManager(_OnKubernetes): ...


class K8sConfig(_OnKubernetes): ...


class KnativeDeployManager(_OnKubernetes): ...


class KruiseDeployManager(_OnKubernetes): ...


class ModelstudioDeployManager(_InCloud): ...


class AgentRunDeployManager(_InCloud): ...


class FCDeployManager(_InCloud): ...


class PAIDeployManager(_InCloud): ...
