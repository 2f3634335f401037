#!/usr/bin/env bash
# Makes a table in Markdown from the file accuracies.txt of six_sets.sh: a row for each method and
# seed, with the actual number of tuned parameters (the mean over the data sets) and the test
# accuracies in percent. The last column is the mean of the first five data sets, if all five ran.
#
# usage: six_sets_table.sh ACCURACIES.txt…
set -euo pipefail
awk 'BEGIN { n = split("sign_digits fashion_mnist clothing grocery caltech101 blood_cells", set) }
	NF == 6 { row = $2 " | " $4; if (!(row in seen)) { seen[row] = ++rows; name[rows] = $2; seed[rows] = $4 }
		accuracy[seen[row], $1] = $5; tuned[seen[row]] += $6; runs[seen[row]]++ }
	END {
		printf "| method | tuned, without the head | seed"; for (i = 1; i <= n; i++) printf " | %s", set[i]; print " | mean of five |"
		for (i = 0; i < n + 4; i++) printf "|---"; print "|"
		for (r = 1; r <= rows; r++) {
			count = sprintf("%d", tuned[r] / runs[r]); sum = 0; m = 0
			while (match(count, /[0-9][0-9][0-9][0-9]($|,)/)) count = substr(count, 1, RSTART) "," substr(count, RSTART + 1)
			printf "| %s | %s | %s", name[r], count, seed[r]
			for (i = 1; i <= n; i++) if ((r, set[i]) in accuracy) { if (i < 6) { sum += accuracy[r, set[i]]; m++ }; printf " | %.1f", accuracy[r, set[i]] } else printf " | –"
			if (m == 5) printf " | %.1f |\n", sum / m; else print " | – |"
		} }' "$@"
