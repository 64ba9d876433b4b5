"""Where trainings run, if not on the machine that starts them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sdxl_core.config import Config
from tasks.errors import ConfigError
from tasks.secrets import is_secret_name

WHERE = "runtime.train_on"
OURS = ("SDXL_FLOWS_STORE", "SDXL_FLOWS_CACHE")
"""Variables that a job's environment gets from its store and `folder`."""
Hours = Annotated[float, Field(gt=0, le=672)]
"""SageMaker ends every job after four weeks."""


class SageMakerConfig(Config):
    """Trainings as jobs of Amazon SageMaker; needs a store on s3:// and boto3. docs/sagemaker.md says how."""

    engine: Literal["sagemaker"]
    role: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/\S+$")]
    """ARN of the role that the job has. It needs to read, write, list and delete below the store's URL."""
    image: Annotated[str, Field(pattern=r"^\S+$")]
    """The project's container image, in a registry that the role may pull from. Its code has to be this code."""
    instance: Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]
    """Such as ml.g6e.xlarge (one GPU), or ml.p5.48xlarge (eight) with `training.processes: 8`."""
    volume_gb: Annotated[int, Field(ge=1, le=16384)] = 200
    """For the base model, what the training reads, and its bundles. Instances with disks of their own have those."""
    max_hours: Hours = 24.0
    """The job is stopped after so much computing, having saved; the next run goes on. A limit to what it may cost."""
    spot: bool = False
    """Take spare machines, for less. One that is taken away costs the steps since the last bundle; the job goes on."""
    max_wait_hours: Hours | None = None
    """With spot: how long the job may take with all its waiting for machines. Unset: twice max_hours."""
    retries: Annotated[int, Field(ge=1, le=30)] = 3
    """How often SageMaker starts the job again after a fault of its own."""
    region: str | None = None
    """Unset: that of the environment."""
    subnets: tuple[str, ...] = ()
    """With security_groups: a private network to run in, which has to reach S3, and the hub with `models_from: hub`."""
    security_groups: tuple[str, ...] = ()
    kms_key: str | None = None
    """Encrypts the job's volume. Unset: a key of SageMaker's own."""
    tags: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the job. Everybody who may describe the job can read them: no secrets."""
    models_from: Literal["hub", "store"] = "hub"
    """Where the job gets models that this machine has from the Hugging Face hub. store: this machine sends them to the
    store; for models behind a token, and networks without a way out."""
    folder: Annotated[str, Field(pattern=r"^/\S+$")] = "/tmp/sdxl-flows"
    """In the container, for copies of artifacts and models: on the job's volume, and writable."""
    log_lines: Annotated[int, Field(ge=0, le=1000)] = 20
    """How many of its last lines are shown when a job has failed."""

    @field_validator("environment")
    @classmethod
    def _without_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if is_secret_name(name):
                raise ValueError(f"{name} is the name of a secret, which everybody who may describe the job could read")
            if name in OURS:
                raise ValueError(f"{name} follows from runtime.store and runtime.train_on.folder; leave it out")
        return environment

    @model_validator(mode="after")
    def _that_fit(self) -> SageMakerConfig:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups belong together: give both, or neither")
        if self.max_wait_hours is not None and not self.spot:
            raise ValueError("max_wait_hours has no effect without spot; leave it out, or set spot")
        if self.max_wait_hours is not None and self.max_wait_hours < self.max_hours:
            raise ValueError("max_wait_hours is the whole time, and so at least max_hours")
        return self


def require_place(train_on: SageMakerConfig, store_url: str | None) -> None:
    """Raises ConfigError where the job could not share this store, or cannot be started from here."""
    if store_url is None or not store_url.startswith(("s3://", "s3a://")):
        fix = "Set runtime.store or SDXL_FLOWS_STORE, such as to s3://bucket/sdxl"
        got = store_url or "a folder of this machine"
        raise ConfigError.about(f"{WHERE}: {train_on.engine}", expected="a store on s3://", got=got, fix=fix)
    if find_spec("boto3") is None:
        fix = "pip install 'sdxl-flows[sagemaker]'"
        raise ConfigError.about(f"{WHERE}: {train_on.engine}", expected="the package boto3", got="none", fix=fix)
