"""The template of what trainings on SageMaker need of AWS: moto makes the stack, and its rights are few."""

from __future__ import annotations

import ast
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.buckets import s3_server

TEMPLATE = Path(__file__).parents[1] / "configs" / "aws" / "sagemaker.yaml"
Stack = dict[str, Any]


@pytest.fixture(params=["", "sdxl-flows"], ids=["no repository", "a repository"])
def stack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Its outputs, and `resources`: the physical name by the logical one, of what moto knows."""
    for module, content in {  # moto imports it for another service, API Gateway
        "openapi_spec_validator": {"validate": None},
        "openapi_spec_validator.validation": {},
        "openapi_spec_validator.validation.exceptions": {"OpenAPIValidationError": Exception},
    }.items():
        monkeypatch.setitem(sys.modules, module, _module(module, content))
    import boto3

    name = f"stack-{uuid.uuid4().hex[:8]}"
    with s3_server():  # moto's other way would take away the buckets of servers in this process
        formation = boto3.client("cloudformation")
        formation.create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text(),
            Parameters=[{"ParameterKey": "Repository", "ParameterValue": request.param}],
            Capabilities=["CAPABILITY_IAM"],
        )
        [made] = formation.describe_stacks(StackName=name)["Stacks"]
        found = formation.describe_stack_resources(StackName=name)["StackResources"]
        yield {
            **{one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]},
            "resources": {
                one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found if "LogicalResourceId" in one
            },
            "repository": request.param,
        }


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def test_the_bucket_is_closed(stack: Stack) -> None:
    import boto3

    s3, bucket = boto3.client("s3"), stack["resources"]["Bucket"]
    assert stack["Store"] == f"s3://{bucket}/sdxl"
    [rule] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_what_moto_does_not_make() -> None:
    resources = template()["Resources"]
    bucket = resources["Bucket"]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    [clearing] = bucket["LifecycleConfiguration"]["Rules"]
    assert clearing["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    [denial] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (denial["Effect"], denial["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    [trust] = resources["JobRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "sagemaker.amazonaws.com"}


def template() -> dict[str, Any]:
    """With what its functions are given in the place of what they give."""
    yaml = YAML(typ="safe", pure=True)

    def given(constructor: Any, tag: str, node: Any) -> Any:
        return constructor.construct_sequence(node) if isinstance(node.value, list) else node.value

    yaml.constructor.add_multi_constructor("!", given)
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text())
    return loaded


def test_the_role_may_do_what_a_job_does(stack: Stack) -> None:
    import boto3

    iam, role = boto3.client("iam"), stack["resources"]["JobRole"]
    found = iam.get_role(RoleName=role)["Role"]
    assert found["Arn"] == stack["Role"]
    assert template()["Resources"]["JobRole"]["Properties"]["ManagedPolicyArns"] == ["StoreAccess"]
    documents = [_managed(iam, stack["StoreAccess"])]
    inline = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents += [_read(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]) for name in inline]
    actions = _actions(documents)
    wanted = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "logs:PutLogEvents"}
    assert wanted <= actions
    assert ("ecr:BatchGetImage" in actions) == bool(stack["repository"])
    assert not any(action.startswith(("iam:", "sagemaker:")) or "*" in action for action in actions)


def test_whoever_starts_jobs_may_do_what_the_launcher_does(stack: Stack) -> None:
    import boto3

    document = _managed(boto3.client("iam"), stack["StartAccess"])
    asked = {f"sagemaker:{name}TrainingJob" for name in ("Create", "Describe", "Stop")}
    assert asked | {"sagemaker:ListTrainingJobs", "sagemaker:AddTags", "iam:PassRole"} <= _actions([document])
    [passing] = [one for one in document["Statement"] if one["Action"] == "iam:PassRole"]
    assert passing["Resource"] == stack["Role"]


def _managed(iam: Any, arn: str) -> dict[str, Any]:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document: dict[str, Any] = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    return document


def _read(document: Any) -> dict[str, Any]:
    """moto gives the policies that a role has of its own as Python shows them."""
    read: dict[str, Any] = ast.literal_eval(document) if isinstance(document, str) else document
    return read


def _actions(documents: list[dict[str, Any]]) -> set[str]:
    said = [one["Action"] for document in documents for one in document["Statement"]]
    return {action for some in said for action in ([some] if isinstance(some, str) else some)}
