# syntax=docker/dockerfile:1
# One image for server, worker and runs: docs/containers.md. It holds no weights; those go to /data/huggingface.
# torch's wheels bring CUDA themselves, so the small `base` is enough; it tells NVIDIA's container toolkit what is needed.
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/uv && python3.12 -m venv /opt/venv
WORKDIR /app
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/venv
# libraries change seldom, the project often: they have a layer each
COPY constraints.txt pyproject.toml ./
ARG EXTRAS="faces 8bit s3 gcs kubernetes ecs docker"
RUN --mount=type=cache,target=/root/.cache \
    /opt/uv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv \
 && /opt/uv/bin/uv pip install --constraint constraints.txt --requirement pyproject.toml \
    $(for extra in ${EXTRAS}; do echo "--extra ${extra}"; done) 'opencv-python-headless>=5,<6'
COPY README.md LICENSE prefect.yaml prefect.toml ./
COPY flows flows
COPY tasks tasks
COPY sdxl_core sdxl_core
COPY eval eval
COPY configs configs
RUN --mount=type=cache,target=/root/.cache \
    /opt/uv/bin/uv pip install --no-deps --constraint constraints.txt --editable .

FROM ${CUDA_IMAGE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12 tini ca-certificates \
 && rm -rf /var/lib/apt/lists/*
# Ubuntu's image has a user 1000 of its own; runs are this one, and /data and the reports' folder are theirs
RUN userdel --remove ubuntu 2>/dev/null; useradd --create-home --uid 1000 flows \
 && mkdir -p /data /app/runs /prefect && chown flows:flows /data /app/runs /prefect
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:${PATH} \
    DO_NOT_TRACK=1 \
    SDXL_FLOWS_HOME=/app \
    SDXL_FLOWS_STORE=/data/store \
    HF_HOME=/data/huggingface \
    PREFECT_RESULTS_LOCAL_STORAGE_PATH=/data/store/prefect/records
USER flows
# A work pool gives a container its whole command, so the entry point is only what reaps processes. There is no HEALTHCHECK:
# what is healthy differs between a server, a worker and a run; compose.yaml says it for the first two.
ENTRYPOINT ["tini", "--"]
CMD ["sdxl-flows", "--help"]
