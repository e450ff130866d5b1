# Which build of torch a machine gets; sourced by setup.sh and test_lowest.sh.
#   no NVIDIA driver on Linux: a CPU build, never CUDA's gigabytes
#   an NVIDIA driver:          a CUDA build that the driver can run, never a CPU build
#   macOS:                     the one build there is; none for Intel processors
# TORCH=cpu, or TORCH=cu126, cu128, cu130, ... says it where nvidia-smi cannot (a login node without a GPU).

torch_kind() {
  if [ "${TORCH:-}" = cpu ]; then echo cpu
  elif [ -n "${TORCH:-}" ]; then echo cuda
  elif [ "$(uname -s)" != Linux ]; then echo default
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda
  else echo cpu
  fi
}

torch_fits() {  # is the torch of interpreter $1 a build for kind $2? Its version's suffix says which one it is
  "$1" - "$2" 2>/dev/null <<'PY'
import sys
from importlib.metadata import distributions
(version,) = {d.version for d in distributions(name="torch")}
names = {d.metadata["Name"].lower() for d in distributions()}
has_cuda = "+cu" in version or any(name.startswith("nvidia-cu") or name == "cuda-toolkit" for name in names)
sys.exit({"cpu": "+cpu" not in version and has_cuda, "cuda": "+cpu" in version, "default": False}[sys.argv[1]])
PY
}

install_torch() {  # install_torch PYTHON "torch>=2.13,<2.15": the newest of this range that this machine is to have
  local python=$1 range=$2 kind
  kind=$(torch_kind)
  case $kind in
    default)
      "$python" -m pip install --quiet "$range" || {
        echo "error: no $range for $(uname -s) on $(uname -m); on a Mac, Apple silicon is needed" >&2; return 2
      } ;;
    cpu)
      # a CPU wheel among the user's own sources (pip's find-links or index settings), else uv, which knows torch's
      "$python" -m pip install --quiet --only-binary :all: "$(echo "$range" | sed -E 's/>=([^,]+).*/==\1+cpu/; s/==([0-9.]+)$/==\1+cpu/')" 2>/dev/null ||
        uv_torch "$python" "$range" cpu ;;
    cuda) uv_torch "$python" "$range" "${TORCH:-auto}" ;;
  esac
  torch_fits "$python" "$kind" || {
    echo "error: torch of $python is no $kind build; install one by hand, then run this again" >&2; return 2
  }
}

uv_torch() {  # uv_torch PYTHON RANGE BACKEND: uv picks torch's own index by the driver (auto), or CPU builds
  "$1" -m pip install --quiet "uv>=0.7" &&
    "$1" -m uv pip install --quiet --python "$1" --torch-backend="$3" "$2" || {
    echo "error: no $3 build of $2 can be reached; install torch by hand into $(dirname "$(dirname "$1")"), then run this again" >&2
    return 2
  }
}
