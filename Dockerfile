# An image with supervise and the CRIU it needs, and nothing of what built them.
#
#   docker build -t supervise .
#   docker run --rm --cap-add SYS_ADMIN --cap-add SYS_TIME --cap-add NET_ADMIN --cap-add SYS_PTRACE \
#     --security-opt seccomp=unconfined supervise doctor
#
# That is the least it needs to switch paths and hand over; on hosts with AppArmor also
# --security-opt apparmor=unconfined, as its docker profile denies mounts. README.md has the whole.
# BASE may be any image of Debian 12 or 13; the build needs a Debian mirror.
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
RUN mkdir -p /stage/opt/supervise/criu/sbin \
  && strip -o /stage/opt/supervise/criu/sbin/criu /opt/supervise/criu/sbin/criu \
  && ldd /stage/usr/local/libexec/supervise/supervise-main /stage/opt/supervise/criu/sbin/criu \
    | awk '$3 ~ /^\// { n = split($3, part, "/"); print "*/" part[n] }' | sort -u \
    | xargs -r dpkg-query -S | cut -d : -f 1 | sort -u >/stage/runtime-packages \
  && test -s /stage/runtime-packages

FROM ${BASE}
COPY --from=build /stage/runtime-packages /tmp/runtime-packages
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    $(cat /tmp/runtime-packages) mount \
  && apt-get clean \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /tmp/runtime-packages
COPY --from=build /stage/usr/local/ /usr/local/
COPY --from=build /stage/opt/ /opt/
ENTRYPOINT ["supervise"]
