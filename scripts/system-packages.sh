#!/bin/sh
# What some tests drive from outside Python: a browser for the report, a load generator, the stores of keys and budgets. Where
# they cannot be installed, those tests skip and say so.
set -eu
missing=
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v wrk >/dev/null 2>&1 || missing="$missing wrk"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed:$missing (some tests will skip)"
  exit 0
fi
echo "installing$missing"
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null || echo "could not install$missing (some tests will skip)"
