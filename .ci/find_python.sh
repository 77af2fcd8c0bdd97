# Sourced by the scripts that make environments.

# Print the first Python of the versions from $1 to $2 (such as 3.10 3.12): of $BASE_PYTHON, or else of the names that
# follow. Print nothing where there is none.
find_python() {
    local lowest=${1/./, } highest=${2/./, } candidate
    shift 2
    for candidate in ${BASE_PYTHON:-"$@"}; do
        if "$candidate" -c "import sys; sys.exit(not ($lowest) <= sys.version_info[:2] <= ($highest))" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}
