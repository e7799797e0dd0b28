#!/usr/bin/env bash
# installed_copy.sh SOURCE BUILD: installs the built project into a folder of the build, builds the example against that copy
# alone, and lets it write text.
set -euo pipefail
source=$1 build=$2
prefix=$build/installed
rm -rf "$prefix" "$build/example"
cmake --install "$build" --prefix "$prefix" >/dev/null
cmake -S "$source/examples/generate" -B "$build/example" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$build/example"
"$build/example/generate" "$source/models/tiny-v32" "The old man looked at the sea and said," | tee "$build/example/text"
grep -q '"Well, what do you think?"' "$build/example/text"
test -x "$prefix/bin/fulgurite"
