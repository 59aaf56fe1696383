#!/usr/bin/env bash
# Checks docker/ as far as it goes without an engine. A tool that is absent is named, not passed over in silence.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
skipped=()

if command -v hadolint > /dev/null; then
  hadolint docker/Dockerfile
else
  skipped+=("Dockerfile not linted, hadolint is not installed")
fi

if docker compose version > /dev/null 2>&1; then
  docker compose -f docker/compose.yaml --profile '*' config --quiet
elif command -v docker-compose > /dev/null; then
  docker-compose -f docker/compose.yaml --profile '*' config --quiet
else
  skipped+=("compose.yaml not checked, docker compose is not installed")
fi

if ((${#skipped[@]})); then
  printf -v line '%s; ' "${skipped[@]}"
  echo "docker/: ${line%; }" >&2
fi
