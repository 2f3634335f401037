#!/usr/bin/env bash
# Tunes one backbone for several data sets with several methods, each trained on
# training and validation images and tested once, and prints one line for each
# run: data set, method, seed, test accuracy in percent. Runs that are there
# already are not repeated, so a stopped sweep goes on where it was.
#
# usage: six_sets.sh MODEL DATA OUT
#   MODEL  the backbone, a safetensors file
#   DATA   the folder with the data sets
#   OUT    where the run folders go
# environment: SPT (spt), SETS, METHODS, BUDGET (0.2M), EPOCHS (4), BATCH (16), SEEDS (0)
set -euo pipefail
model=$1 data=$2 out=$3
mkdir -p "$out"
for seed in ${SEEDS:-0}; do
	for method in ${METHODS:-linear spt-lora lora spt-adapter adapter}; do
		for set in ${SETS:-sign_digits fashion_mnist clothing grocery caltech101 blood_cells}; do
			run=$out/$set-$method-${BUDGET:-0.2M}-$seed
			if [ ! -e "$run/result.json" ]; then
				flags=(--budget "${BUDGET:-0.2M}" --epochs "${EPOCHS:-4}")
				if [ "$method" = linear ]; then flags=(--epochs 100); fi # on features: seconds
				if [ -e "$run" ]; then flags=(--resume "$run"); else
					flags=(--model "$model" --data "$data/$set" --method "$method" --batch-size "${BATCH:-16}"
						--seed "$seed" --no-validation --out "$run" "${flags[@]}")
				fi
				"${SPT:-spt}" tune -q "${flags[@]}" > "$run.log"
			fi
			echo "$set $method $seed $(sed -n 's/^test accuracy *\([0-9.]*\)%.*/\1/p' "$run.log")"
		done
	done
done
