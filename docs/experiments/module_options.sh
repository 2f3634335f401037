#!/usr/bin/env bash
# Trains structured modules with different initial values and with and without their drops, on equal
# plans, and validates the result. It decides defaults, so it reads no test images. It writes one
# line of CSV for each training; paired.sh makes tables from them. Finished trainings are not
# repeated, and interrupted ones continue.
#
# usage: module_options.sh MODEL DATA OUT
#   MODEL  the backbone, a safetensors file
#   DATA   the folder of the data sets, each with its own validation split
#   OUT    the folder for scores, plans, run folders and results.csv
# environment: SPT (spt), SETS, SEEDS (0), BUDGET (55296), EPOCHS (20), JOBS (1: the number of trainings
#   at the same time), ARMS (all; NAME:FLAGS of spt train, where the first word of NAME is the
#   method: spt-lora, spt-adapter, or adapter of rank 1, which needs no plan)
set -euo pipefail
export model=$1 data=$2 out=$3
mkdir -p "$out"
arms="spt-lora paper:--init paper
spt-lora release:--init release
spt-adapter paper:--init paper
spt-adapter release:--init release
spt-adapter no drops:--dropout 0 --module-drop-path 0
adapter paper:--init paper
adapter no drops:--dropout 0 --module-drop-path 0"

plan() { # SEED SET METHOD: prints the path of the plan
	local scores=$out/$2-$1.safetensors plan=$out/$2-$3-$1.json
	if [ ! -e "$plan" ]; then
		if [ ! -e "$scores" ]; then
			"${SPT:-spt}" score -q --model "$model" --data "$data/$2" --image-size 96 --seed "$1" --out "$scores" >&2
		fi
		"${SPT:-spt}" plan -q --scores "$scores" --budget "${BUDGET:-55296}" --method "$3" --out "$plan" >&2
	fi
	echo "$plan"
}

run() { # SEED SET NAME FLAGS
	local dir="$out/$2-${3// /-}-$1" method=${3%% *} what
	if [ ! -e "$dir/result.json" ]; then
		if [ "$method" = adapter ]; then what="--method adapter --rank 1"; else what="--plan $(plan "$1" "$2" "$method")"; fi
		local flags="--model $model --data $data/$2 --image-size 96 --epochs ${EPOCHS:-20} --batch-size 64 --seed $1 $what $4 --out $dir"
		if [ -e "$dir/config.json" ]; then flags="--resume $dir"; fi
		"${SPT:-spt}" train -q $flags > "$dir.log" 2>&1 || { echo "failed: $dir.log" >&2; return 0; }
	fi
	echo "$3,$2,$1,$(sed -n 's/^validation accuracy *\([0-9.]*\)%.*/\1/p' "$dir.log"),$(sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$dir/metrics.jsonl" | tail -n 1),$(sed -n 's/^tuned *\([0-9]*\) parameters.*/\1/p' "$dir.log")"
}
export -f plan run

echo "arm,set,seed,validation accuracy,validation loss,tuned parameters" > "$out/results.csv"
for seed in ${SEEDS:-0}; do
	for set in ${SETS:-sign_digits clothing fashion_mnist grocery caltech101}; do
		while IFS=: read -r name flags; do
			printf '%s\0%s\0%s\0%s\0' "$seed" "$set" "$name" "$flags"
		done <<< "${ARMS:-$arms}"
	done
done | xargs -0 -P "${JOBS:-1}" -n 4 bash -c 'run "$@"' run | tee -a "$out/results.csv"
