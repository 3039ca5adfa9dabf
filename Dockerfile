# One image for all: a node of the chat, or another of its servers, and the NATS server that nodes need.
#
#     docker build -t chat .                                                   features/nodes
#     docker build -t chat-poll --build-arg FOLDER=poll_based .                another server
#     docker run --rm --init=false --read-only --tmpfs /tmp -p 127.0.0.1:9669:9669 chat
FROM python:3.13-slim
ARG FOLDER=features/nodes

# The id is a number, so that Kubernetes can see that it is not root's. /data is for what is kept, if anything is: a
# volume that is new gets its owner from here.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin chat \
    && install --directory --owner=10001 /data
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --root-user-action=ignore ".[nodes,web]"
COPY ${FOLDER}/ /chat/

USER 10001
WORKDIR /data
ENV PYTHONDONTWRITEBYTECODE=1
EXPOSE 9669
# As lists and not as lines: a shell would be process 1 then, and SIGTERM would not come to the server.
ENTRYPOINT ["python3", "/chat/server.py"]
CMD ["9669", "--host", "0.0.0.0"]
# What every server here does is to listen. (That nodes also answer, compose.yaml asks.)
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s \
    CMD ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 9669), 4)"]
