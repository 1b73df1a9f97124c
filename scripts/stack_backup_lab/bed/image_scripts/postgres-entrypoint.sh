#!/usr/bin/env bash
# Starts PostgreSQL as the public image does: a new data directory from POSTGRES_USER, POSTGRES_PASSWORD (or
# POSTGRES_PASSWORD_FILE) and POSTGRES_DB, then the server. Root drops to the user postgres first.
set -euo pipefail

: "${PGDATA:?}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"

# initdb and the first start, reachable by nobody else; the password is written to no file and no argument list.
initialise() {
  local password=${POSTGRES_PASSWORD-}
  if [ -n "${POSTGRES_PASSWORD_FILE-}" ]; then password=$(<"$POSTGRES_PASSWORD_FILE"); fi
  if [ -z "$password" ]; then
    printf 'POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must hold the password of %s.\n' "$POSTGRES_USER" >&2
    exit 1
  fi
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host=scram-sha-256
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  if [ "$POSTGRES_DB" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "${POSTGRES_DB//\"/\"\"}" |
      postgres --single -D "$PGDATA" postgres >"$PGDATA/create.log" ||
      { cat "$PGDATA/create.log" >&2 && exit 1; }
    rm "$PGDATA/create.log"
  fi
}

case ${1-} in -*) set -- postgres "$@" ;; esac
if [ "${1-}" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 3775 /var/run/postgresql
    chown -R postgres:postgres "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    initialise
  fi
  unset POSTGRES_PASSWORD
fi
exec "$@"
