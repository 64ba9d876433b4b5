"""Training jobs of Amazon SageMaker, by boto3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sdxl_core.errors import UserError
from tasks.errors import ConfigError
from tasks.remote.config import WHERE, SageMakerConfig
from tasks.shared.leases import LASTS_S

COMMAND = ("python", "-m", "tasks.remote.run")
_LOGS = "/aws/sagemaker/TrainingJobs"
_OVER = frozenset({"Completed", "Failed", "Stopped"})
_REFUSALS = frozenset(
    {
        *("ValidationException", "AccessDeniedException", "ResourceLimitExceeded", "ResourceNotFound"),
        *("UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException"),
    }
)
_TRIES = 8
"""Of a request, with growing pauses, of a minute or two in all."""


@dataclass(frozen=True)
class JobState:
    """What SageMaker says of a job."""

    status: str
    """InProgress, Stopping, Completed, Failed or Stopped."""
    phase: str
    """Its secondary status, such as Downloading, Training, Interrupted, MaxRuntimeExceeded."""
    message: str
    reason: str
    """Why it failed."""

    @property
    def over(self) -> bool:
        return self.status in _OVER


class Jobs:
    """Jobs of one account and region.

    Every method raises:
        UserError: AWS does not let us.
    and what botocore raises where AWS cannot be reached, which may pass.
    """

    def __init__(self, config: SageMakerConfig) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoRegionError

        self._config = config
        patient = Config(retries={"mode": "standard", "max_attempts": _TRIES})
        try:
            self._client = boto3.client("sagemaker", region_name=config.region, config=patient)
            self._logs = boto3.client("logs", region_name=config.region, config=patient)
        except NoRegionError:
            raise ConfigError.about(
                f"{WHERE}.region", expected="a region, here or as AWS_DEFAULT_REGION", got="none"
            ) from None
        self._region = str(self._client.meta.region_name)

    def newest(self, prefix: str) -> int:
        """The highest number of the jobs called `<prefix>-<number>`; 0 where there is none."""
        with _refusals():
            pages = self._client.get_paginator("list_training_jobs").paginate(NameContains=prefix)
            names = [str(job["TrainingJobName"]) for page in pages for job in page["TrainingJobSummaries"]]
        numbers = [name.removeprefix(f"{prefix}-") for name in names if name.startswith(f"{prefix}-")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def start(self, name: str, call: str, store_url: str, tags: Mapping[str, str]) -> bool:
        """Start a job that carries out a call, unless there is one of this name; returns whether this started it."""
        from botocore.exceptions import ClientError

        try:
            with _refusals():
                self._client.create_training_job(**self._request(name, call, store_url, tags))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceInUse":
                raise
            return False
        return True

    def state(self, name: str) -> JobState:
        with _refusals():
            job = self._client.describe_training_job(TrainingJobName=name)
        transitions = job.get("SecondaryStatusTransitions") or [{}]
        return JobState(
            status=str(job["TrainingJobStatus"]),
            phase=str(job.get("SecondaryStatus", "")),
            message=str(transitions[-1].get("StatusMessage", "")),
            reason=str(job.get("FailureReason", "")),
        )

    def stop(self, name: str) -> None:
        """Have it asked to stop: by SIGTERM, and two minutes later by SIGKILL."""
        with _refusals():
            self._client.stop_training_job(TrainingJobName=name)

    def last_lines(self, name: str) -> list[str]:
        """Of its log; one that says why, where that cannot be read."""
        try:
            streams = self._logs.describe_log_streams(logGroupName=_LOGS, logStreamNamePrefix=f"{name}/")["logStreams"]
            if not streams or not self._config.log_lines:
                return []
            read = {"logGroupName": _LOGS, "logStreamName": streams[0]["logStreamName"], "startFromHead": False}
            events = self._logs.get_log_events(**read, limit=self._config.log_lines)["events"]
        except Exception as error:  # a role may be without this right, and the failure is what matters
            return [f"({_LOGS}/{name} cannot be read: {error})"]
        return [str(event["message"]).rstrip() for event in events]

    def _request(self, name: str, call: str, store_url: str, tags: Mapping[str, str]) -> dict[str, Any]:
        config = self._config
        seconds = {"MaxRuntimeInSeconds": round(config.max_hours * 3600)}
        if config.spot:
            seconds["MaxWaitTimeInSeconds"] = round((config.max_wait_hours or 2 * config.max_hours) * 3600)
        resources = {"InstanceType": config.instance, "InstanceCount": 1, "VolumeSizeInGB": config.volume_gb}
        image = {"TrainingImage": config.image, "TrainingInputMode": "File"}
        request = {
            "TrainingJobName": name,
            "RoleArn": config.role,
            "AlgorithmSpecification": {**image, "ContainerEntrypoint": [*COMMAND], "ContainerArguments": [call]},
            "ResourceConfig": resources | ({"VolumeKmsKeyId": config.kms_key} if config.kms_key else {}),
            "OutputDataConfig": {"S3OutputPath": f"{_as_s3(store_url)}/sagemaker"},  # must be, and stays all but empty
            "StoppingCondition": seconds,
            "EnableManagedSpotTraining": config.spot,
            "RetryStrategy": {"MaximumRetryAttempts": config.retries},
            "Environment": self._environment(store_url),
            "Tags": [{"Key": key, "Value": value} for key, value in {**tags, **config.tags}.items()],
        }
        if config.subnets:
            request["VpcConfig"] = {"Subnets": [*config.subnets], "SecurityGroupIds": [*config.security_groups]}
        return request

    def _environment(self, store_url: str) -> dict[str, str]:
        """No credentials: the job has those of its role."""
        folder = self._config.folder
        usual = {"AWS_DEFAULT_REGION": self._region, "HF_HOME": f"{folder}/huggingface"}
        usual |= {LASTS_S: os.environ[LASTS_S]} if LASTS_S in os.environ else {}
        ours = {"SDXL_FLOWS_STORE": store_url, "SDXL_FLOWS_CACHE": f"{folder}/store"}
        return {**usual, **self._config.environment, **ours}


def _as_s3(url: str) -> str:
    return f"s3://{url.partition('://')[2].rstrip('/')}"


@contextmanager
def _refusals() -> Iterator[None]:
    from botocore.exceptions import ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        fix = "Credentials come from the environment, such as AWS_PROFILE"
        raise UserError.about(WHERE, expected="access to SageMaker", got=str(error), fix=fix) from None
    except ClientError as error:
        if error.response["Error"]["Code"] in _REFUSALS:
            raise UserError(f"{WHERE}: AWS refuses: {error}") from None
        raise
