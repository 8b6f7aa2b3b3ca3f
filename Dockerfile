# The fine-tuning job as an image. Built as it stands it is the production image (CUDA wheels, every hash checked):
#     docker build --tag graft .
# A machine without a GPU, tests and CI take the developer's lock and whatever torch wheel pip is configured to find:
#     docker build --tag graft:dev --build-arg LOCK=dev .
# BuildKit is needed (cache mounts). There is no `# syntax=` line, so that the build asks no registry for a frontend.

# torch's wheels carry the CUDA libraries: a cuda:*-devel base would only hold them a second time.
FROM python:3.11-slim-bookworm AS dependencies
ARG LOCK=image
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# The locks come before the source: a change of code does not install anything again. Each is named in full, as Modal's
# builder is sent what COPY names and knows no variable there.
COPY locks/image.txt locks/dev.txt locks/torch.txt ./
# deepspeed is a source package. Built in isolation it would pull a setuptools that no hash vouches for, so the locked
# one goes in first. pip compiles the bytecode that the read-only container cannot write later.
# What makes the size is set apart for layers of its own: layers are pulled in parallel, and one that did not change is
# not pulled again. What pip knows of those packages stays with the rest.
# hadolint ignore=DL3003,DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' "${LOCK}.txt" > setuptools.txt \
    && /opt/venv/bin/pip install --no-deps --require-hashes --requirement setuptools.txt \
    && /opt/venv/bin/pip install --no-deps --require-hashes --no-build-isolation --use-pep517 \
        --requirement "${LOCK}.txt" \
    && if [ "${LOCK}" = dev ]; then /opt/venv/bin/pip install --requirement torch.txt; fi \
    && /opt/venv/bin/pip check \
    && cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && for group in nvidia/cu13 nvidia torch triton; do \
        apart="/layers/${group##*/}${PWD}/$(dirname "${group}")"; \
        mkdir -p "${apart}"; \
        if [ -e "${group}" ]; then mv "${group}" "${apart}"; fi; \
    done

# What is in the image, and under which licences: https://cyclonedx.org
FROM dependencies AS contents
COPY locks/sbom.txt scripts/licences.py ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/sbom \
    && /opt/sbom/bin/pip install --no-deps --require-hashes --requirement sbom.txt \
    && mkdir /contents \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /contents/sbom.cdx.json /opt/venv/bin/python \
    && python3 licences.py /contents/sbom.cdx.json > /contents/licences.txt

# Source apart from the final stage: modes and bytecode are settled here and arrive as one layer.
FROM dependencies AS source
WORKDIR /app
COPY entrypoint.py ./
COPY job/ job/
COPY accelerate_configs/ accelerate_configs/
COPY examples/ examples/
# Readable by every user and writable by none, whatever the umask of the checkout. The bytecode is trusted unchecked:
# nobody edits the source in an image.
RUN chmod -R a+rX,go-w . && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:3.11-slim-bookworm
# Triton compiles a small C launcher for its kernels at run time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /layers/cu13/ /
COPY --from=dependencies /layers/nvidia/ /
COPY --from=dependencies /layers/torch/ /
COPY --from=dependencies /layers/triton/ /
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=contents /contents /usr/share/graft
COPY --from=source /app /app

# /workspace is the one writable place: RunDir, caches, downloads. Sticky and open like /tmp, so that `--user` and a platform's
# own numeric user work. The source directory holds no .env and nothing that a job writes.
RUN install --directory --owner=10001 --group=10001 --mode=1777 /workspace
# PYTHONPATH: the launcher starts `-m job.train`, and a platform may choose another working directory.
# LOGNAME: an unknown uid has no passwd entry, and torch asks getpass for a name.
# NVIDIA_DRIVER_CAPABILITIES: CUDA and NVML. Which GPUs are visible stays the platform's decision.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    LOGNAME=graft \
    HOME=/workspace \
    JOB_WORK_DIR=/workspace \
    HF_HOME=/workspace/hf \
    TRITON_CACHE_DIR=/workspace/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/workspace/cache/inductor \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
# Numeric, as Kubernetes' runAsNonRoot asks for.
USER 10001:10001

# An image that cannot import its stack is not an image. No GPU is needed for it. What the imports leave in /workspace would
# belong to this one user and shut out every other, so they get a /workspace of their own.
RUN --mount=type=tmpfs,target=/workspace ["/opt/venv/bin/python", "-c", "import torch, transformers, trl, peft, accelerate, datasets, bitsandbytes, deepspeed, boto3, awscrt, huggingface_hub, job.cli"]

# A read-only container still has its /workspace.
VOLUME /workspace

# Last, so that a new revision rebuilds nothing.
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="graft" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# Exec form: the job is PID 1, receives SIGTERM itself and reaps what it started.
ENTRYPOINT ["/opt/venv/bin/python", "/app/entrypoint.py"]
