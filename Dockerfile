# The steps of the first stage are those of `make wheel`; tests/packaging/test_image.py runs them, and the server from there.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /source
COPY tools/locks tools/locks
RUN python3 -m venv /opt/modelregistry
RUN /opt/modelregistry/bin/pip install --no-deps --require-hashes -r tools/locks/runtime.txt -r tools/locks/extras.txt
RUN python3 -m venv build/wheel
RUN build/wheel/bin/pip install --no-deps --require-hashes -r tools/locks/build.txt
COPY pyproject.toml README.md ./
COPY server server
COPY gen gen
COPY protos protos
COPY clients/python/modelregistry_client clients/python/modelregistry_client
RUN build/wheel/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist .
RUN /opt/modelregistry/bin/pip install --no-deps dist/*.whl

FROM python:3.13.9-slim-bookworm
COPY --from=build /opt/modelregistry /opt/modelregistry
# A new volume starts as a copy of this folder.
RUN install --directory --owner 65532 --group 65532 --mode 0700 /data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 50051 8080 9464
ENV PATH=/opt/modelregistry/bin:$PATH \
    MODELREGISTRY_LISTEN=0.0.0.0:50051 \
    MODELREGISTRY_HTTP_LISTEN=0.0.0.0:8080 \
    MODELREGISTRY_METRICS_LISTEN=0.0.0.0:9464 \
    MODELREGISTRY_DATA_DIR=/data
# -I: whatever lies in the working directory is not the server's code.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-I", "-m", "server.process.healthcheck"]
ENTRYPOINT ["modelregistry"]
CMD ["serve", "--local-keys"]
