#!/usr/bin/env bash
# Tunes one backbone for several data sets with several methods. Each run trains on training and
# validation images and tests once. The script prints test accuracies in percent and the actual
# numbers of tuned parameters without the head: a line for each run, then a table of means over
# seeds, with the standard deviations of the accuracies. Finished runs are not repeated and
# interrupted runs continue, so a stopped sweep continues where it was.
#
# usage: six_sets.sh MODEL DATA OUT
#   MODEL  the backbone, a safetensors file
#   DATA   the folder of the data sets
#   OUT    the folder for the run folders
# environment: SPT (spt), SETS, METHODS, BUDGETS (0.2M), EPOCHS (4), BATCH (16), SEEDS (0),
#   DEVICE (auto), PRECISIONS (the device's default), VALIDATE (no; yes chooses between several
#   budgets, divided by commas, on validation images), JOBS (1: the number of runs at the same time,
#   for a GPU that one run does not fill), FLAGS (further flags of spt tune, such as --image-size 96;
#   give each set of flags a folder OUT of its own)
set -euo pipefail
export model=$1 data=$2 out=$3
mkdir -p "$out"

run() { # SEED PRECISION METHOD SET
	local dir=$out/$4-$3-${BUDGETS:-0.2M}-$2-$1 flags=(--budget "${BUDGETS:-0.2M}" --epochs "${EPOCHS:-4}") VALIDATE=${VALIDATE:-no}
	if [ ! -e "$dir/result.json" ]; then
		case $3 in
		linear | mlp-*) flags=(--epochs 100) VALIDATE=yes ;; # seconds; chooses a learning rate
		full | bitfit | ssf | vpt-* | partial-* | adaptformer) flags=(--epochs "${EPOCHS:-4}") ;;
		esac
		if [ "$VALIDATE" != yes ]; then flags+=(--no-validation); fi
		if [ "$2" != default ]; then flags+=(--precision "$2"); fi
		if [ -e "$dir/config.json" ]; then flags=(--resume "$dir"); else
			flags=(--model "$model" --data "$data/$4" --method "$3" --batch-size "${BATCH:-16}"
				--device "${DEVICE:-auto}" --seed "$1" --out "$dir" "${flags[@]}" ${FLAGS:-})
		fi
		"${SPT:-spt}" tune -q "${flags[@]}" > "$dir.log" 2>&1 || { echo "failed: $dir.log" >&2; return 0; }
	fi
	echo "$4 $3 $2 $1 $(sed -n 's/^test accuracy *\([0-9.]*\)%.*/\1/p' "$dir.log") $(sed -n 's/^tuned *\([0-9]*\) parameters.*/\1/p' "$dir.log")"
}
export -f run

for seed in ${SEEDS:-0}; do
	for precision in ${PRECISIONS:-default}; do
		for method in ${METHODS:-linear spt-lora lora spt-adapter adapter}; do
			for set in ${SETS:-sign_digits fashion_mnist clothing grocery caltech101 blood_cells}; do
				echo "$seed $precision $method $set"
			done
		done
	done
done | xargs --process-slot-var=SLOT -P "${JOBS:-1}" -L 1 bash -c 'run "$@"' run | tee "$out/accuracies.txt"

echo
awk '{ key = $1 " " $2 " " $3; n[key]++; sum[key] += $5; squares[key] += $5 * $5; tuned[key] += $6 }
	END { for (k in n) { m = sum[k] / n[k]; v = n[k] > 1 ? (squares[k] - n[k] * m * m) / (n[k] - 1) : 0
		printf "%s %.2f ± %.2f (%d) %.0f parameters\n", k, m, sqrt(v > 0 ? v : 0), n[k], tuned[k] / n[k] } }' "$out/accuracies.txt" | sort
