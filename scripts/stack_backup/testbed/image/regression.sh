#!/bin/sh
# Fetches the sources of a PostgreSQL of major version $2 with mmdebstrap's apt and makes a tree in $1/regression: the
# regression tests, and the library with functions that they call. The sources are those of the main archive, which is
# as new as the last point release of Debian: what a server of the same major version takes.
set -eu
root=$1 major=$2
lib=/usr/lib/postgresql/$major/lib
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

mkdir -p "$root/source"
cd "$root/source"
sed -n 's/^deb \(.*\)/deb \1\ndeb-src \1/p' "$root/etc/apt/sources.list" | head -n 2 >sources.list
set -- --quiet --option Dir::Etc::SourceList="$PWD/sources.list" --option Dir::Etc::SourceParts=/dev/null
apt-get "$@" update
apt-get "$@" source --download-only "postgresql-$major"
apt-get "$@" download "postgresql-server-dev-$major"
dpkg-deb --extract postgresql-server-dev-*.deb .
tar --extract --file postgresql-*.orig.tar.* --strip-components 1 --wildcards '*/src/test/regress/*'

tests=$root/regression$lib/pgxs/src/test/regress
mkdir -p "$tests"
cp -R src/test/regress/data src/test/regress/expected src/test/regress/sql "$tests"
cp src/test/regress/parallel_schedule src/test/regress/resultmap "$tests"
chroot "$root" gcc -shared -fPIC -O1 -w "-I/source/usr/include/postgresql/$major/server" \
  -o "/regression$lib/regress.so" /source/src/test/regress/regress.c
