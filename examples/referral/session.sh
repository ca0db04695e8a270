#!/bin/bash
# The session in docs/session.svg: tune on the referral notes, measure against the base model, ask for one answer. In a
# workspace with the model fetched (cargo xtask assets smollm2) and the program built:
#
#   script -q -c examples/referral/session.sh target/session.txt && cargo xtask session target/session.txt
#
# STEPS and LIMIT make it shorter: updates to do, and notes to measure on.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$(realpath "${OUNCE_ASSETS:-assets}/models/SmolLM2-135M-Instruct.Q4_1.gguf")
PATH="$(realpath "${CARGO_TARGET_DIR:-target}/release"):$PATH"
# As wide as the picture, and in a directory with short names.
stty columns 100 rows 50 2>/dev/null || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$PWD/examples" "$work/examples"
ln -s "$PWD/examples/referral/test.jsonl" "$work/test.jsonl"
ln -s "$model" "$work/smollm2.gguf"
cd "$work"

run() {
    printf '\e[1m$ %s\e[0m\n' "$*"
    eval "$*"
    echo
}
content_of() { head -n 1 test.jsonl | sed -n 's/.*"role":"'"$1"'","content":"\([^"]*\)".*/\1/p'; }
SYSTEM=$(content_of system)
NOTE=$(content_of user)

run ounce tune smollm2.gguf --config examples/referral/recipe.yaml "${STEPS:+--max-steps $STEPS }--out tuned"
run ounce eval smollm2.gguf --adapter tuned --task test.jsonl --limit "${LIMIT:-40}" --compare base --max-tokens 160
# shellcheck disable=SC2016 # Shown as it is typed.
run 'echo "$NOTE"'
# shellcheck disable=SC2016
run 'ounce generate smollm2.gguf --adapter tuned --system "$SYSTEM" --temperature 0 --max-tokens 120 -- "$NOTE"'
