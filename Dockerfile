# An image of forkd alone: one static binary, started as PID 1, and nothing that
# could run a shell. Build it with
#
#     docker build -t forkd .
#     docker build -t forkd:v1.2.3 --build-arg VERSION=v1.2.3 --platform linux/arm64 .
#
# A worker that needs nothing else, such as a static Go program, goes on top of it:
#
#     FROM forkd
#     COPY server /server
#     CMD ["run", "--listen", ":8080", "--", "/server"]
#
# The base of one that needs more stays its own, and takes the binary:
#
#     FROM python:3.13-slim
#     RUN pip install uvicorn
#     COPY --from=forkd /forkd /usr/local/bin/forkd
#     COPY app.py forkd.toml /srv/
#     WORKDIR /srv
#     ENTRYPOINT ["forkd"]
#     CMD ["run"]
#
# with a forkd.toml beside the app:
#
#     name = "shop"
#     command = ["uvicorn", "--fd", "{fd}", "app:app"]
#     [[listen]]
#     address = ":8080"
#
# As PID 1 forkd also reaps what is left of other processes: no tini, no --init.
#
# - Stopping: docker stop kills after 10 s, forkd's workers may drain for 30 s
#   (drain.timeout). Give it more: docker run --stop-timeout 40, in Compose
#   stop_grace_period: 40s, in Kubernetes terminationGracePeriodSeconds: 40.
# - Workers: "cpus" follows the container's CPU limit, rounded up.
# - Commands: docker exec CONTAINER /forkd status, and so on. For a health check:
#     HEALTHCHECK CMD ["/forkd", "status", "-q"]
# - Rolling: docker exec CONTAINER /forkd reload APP, or docker kill -s HUP. The
#   image itself can't change under a container: mount what is to be deployed.
# - Another user: docker run --user 65534, or user = "nobody" in the settings,
#   which then keeps the workers' rights below the master's.
# - A read-only root: docker run --read-only --tmpfs /run --tmpfs /tmp.

# The compiler runs on the builder's own machine, whatever it builds for.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
    -ldflags "-s -w -X github.com/forkd/forkd/internal/control.version=$VERSION" \
    -o /image/forkd ./cmd/forkd
# What a program may expect of a machine: /run for the control socket, /tmp for
# that of a user other than root, names for users, authorities for TLS.
RUN mkdir -p /image/etc/ssl/certs /image/run \
    && mkdir -m 1777 /image/tmp \
    && printf '%s\n' 'root:x:0:0:root:/:/forkd' 'nobody:x:65534:65534:nobody:/:/forkd' >/image/etc/passwd \
    && printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >/image/etc/group \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

FROM scratch
COPY --from=build /image/ /
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["/forkd"]
# The settings are /forkd.toml's: mount it, or say after the image what to run.
CMD ["run"]
