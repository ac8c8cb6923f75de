# One image for Railway, Render, Compose and Kubernetes. docs/deploying.md says how, and what was tried.

FROM python:3.13-slim AS build
WORKDIR /app
COPY .ci .ci
# The versions and hashes of .ci/locked, with the drivers of the shared stores. What installs them is not kept.
RUN .ci/setup stores && .venv/bin/python -m pip uninstall --quiet --yes pip setuptools
COPY LICENSE main.py ./
COPY bot bot
# Nothing can be compiled later, where nothing can be written; and the times of files may change on the way there.
RUN .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash bot
# Docker keeps the modes of the checkout, and what its owner alone can read the bot could not.
RUN chmod -R u=rwX,go=rX .

FROM python:3.13-slim
# A new named volume takes over the owner and the mode of what is in its place. No VOLUME: Railway refuses to build that.
RUN groupadd --gid 10001 bot \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin bot \
    && install --directory --owner=bot --group=bot --mode=0700 /data
COPY --from=build /app /app
WORKDIR /app
# The state is in /data unless STATE_DIR is given. Not said by STATE_DIR itself: that would win over the volume that
# Railway may mount elsewhere, and names by this variable.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PORT=8080 \
    RAILWAY_VOLUME_MOUNT_PATH=/data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os; page = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); page.request('GET', '/healthz'); raise SystemExit(page.getresponse().status != 200)"]
# It begins as root where the platform names no user, and gives that up before the bot's first line.
ENTRYPOINT ["/app/.ci/start"]
CMD ["python", "main.py"]
