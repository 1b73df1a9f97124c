#!/bin/sh
# Fetches the sources of PostgreSQL $2 with mmdebstrap's apt and makes a tree in $1/regression: the regression tests,
# and the library with functions that they call. Not every mirror has the sources of every update: the newest that it
# has are as good, for the library goes with any server of the major version.
set -eu
root=$1 package=postgresql-$2 lib=/usr/lib/postgresql/$2/lib headers=/source/usr/include/postgresql/$2/server

mkdir "$root/source"
cd "$root/source"
sed -n 's/^deb \(.*\)/deb \1\ndeb-src \1/p' "$root/etc/apt/sources.list" >sources.list
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
set -- --quiet --option Dir::Etc::SourceList="$PWD/sources.list" --option Dir::Etc::SourceParts=/dev/null
apt-get "$@" update
for version in $(apt-cache "$@" showsrc --only-source "$package" | sed -n 's/^Version: //p' | sort --reverse --version-sort); do
  if apt-get "$@" source --download-only "$package=$version"; then break; fi
done
tar --extract --file ./*.orig.tar.* --strip-components 1 --wildcards '*/src/test/regress/*'
apt-get "$@" download "postgresql-server-dev-${package#*-}"
dpkg-deb --extract postgresql-server-dev-*.deb .

tests=$root/regression$lib/pgxs/src/test/regress
mkdir -p "$tests"
cd src/test/regress
cp -R data expected sql parallel_schedule resultmap "$tests"
chroot "$root" gcc -shared -fPIC -O1 -w "-I$headers" -o "/regression$lib/regress.so" /source/src/test/regress/regress.c
