# An image with supervise and the CRIU it needs, and nothing of what built them.
#
#   docker build -t supervise .
#   docker run --rm --cap-add SYS_ADMIN,SYS_TIME,NET_ADMIN,SYS_PTRACE \
#     --security-opt seccomp=unconfined --tmpfs /run supervise doctor
#
# The default seccomp profile stops CRIU; CRIU keeps its kernel probes on the tmpfs /dev/shm.
# BASE may be any image of Debian 12 or 13.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS criu
COPY scripts /src/scripts
RUN /src/scripts/setup.sh --criu-only --no-smoke

FROM criu AS build
RUN /src/scripts/setup.sh --no-smoke
COPY . /src
RUN cd /src \
  && cmake --preset release -DSUPERVISE_TESTS=OFF -DCMAKE_INSTALL_PREFIX=/usr/local \
  && cmake --build --preset release --parallel 2 \
  && DESTDIR=/stage cmake --install build/release --strip
# The packages that own the libraries both programs load: their names differ between releases.
RUN mkdir -p /stage/opt/supervise/criu \
  && cp -a /opt/supervise/criu/sbin /stage/opt/supervise/criu/ \
  && strip /stage/opt/supervise/criu/sbin/criu \
  && ldd /stage/usr/local/bin/supervise /stage/opt/supervise/criu/sbin/criu \
    | awk '$3 ~ /^\// { n = split($3, part, "/"); print "*/" part[n] }' | sort -u \
    | xargs -r dpkg-query -S | cut -d : -f 1 | sort -u >/stage/runtime-packages \
  && test -s /stage/runtime-packages

FROM ${BASE}
COPY --from=build /stage/runtime-packages /tmp/runtime-packages
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    $(cat /tmp/runtime-packages) iproute2 nftables util-linux mount \
  && rm -rf /var/lib/apt/lists/* /tmp/runtime-packages
COPY --from=build /stage/usr/local/ /usr/local/
COPY --from=build /stage/opt/ /opt/
ENTRYPOINT ["supervise"]
