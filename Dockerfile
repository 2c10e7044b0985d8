# Two stages: the compiler and pip's leavings stay in the first.
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/kodectl && /opt/kodectl/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/kodectl /opt/kodectl
RUN useradd --uid 10001 --home-dir /var/lib/kodectl --no-create-home --shell /usr/sbin/nologin kodectl \
    && install -d -m 0700 -o kodectl -g kodectl /var/lib/kodectl
ENV PATH=/opt/kodectl/bin:$PATH \
    KODECTL_DATADIR=/var/lib/kodectl
USER kodectl
VOLUME /var/lib/kodectl
EXPOSE 30303/tcp 30301/udp
# On the unix socket of the data directory; the API stays on the container's loopback.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["kodectl", "node", "health", "live"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["kodectl"]
CMD ["node", "run"]
