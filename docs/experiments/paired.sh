#!/usr/bin/env bash
# Makes tables in Markdown from a CSV file of module_options.sh: the mean of each arm over seeds for
# each data set, and the paired differences of two arms over data sets and seeds.
#
# usage: paired.sh RESULTS.csv [ARM ARM]…   where the two arms of a pair are subtracted
set -euo pipefail
results=$1
shift
awk -F, 'NR > 1 {
	if (!($1 in arms)) { arms[$1] = ++a; arm[a] = $1 }
	if (!($2 in sets)) { sets[$2] = ++s; set[s] = $2 }
	sum[$1, $2] += $4; n[$1, $2]++; loss[$1] += $5; tuned[$1] += $6; all[$1]++ }
END {
	line = "| arm | tuned"; rule = "|---|---"
	for (i = 1; i <= s; i++) { line = line " | " set[i]; rule = rule "|---" }
	print line " | mean | validation loss |"; print rule "|---|---|"
	for (j = 1; j <= a; j++) {
		line = sprintf("| %s | %d", arm[j], tuned[arm[j]] / all[arm[j]]); mean = 0; m = 0
		for (i = 1; i <= s; i++) if ((arm[j], set[i]) in n) {
			v = sum[arm[j], set[i]] / n[arm[j], set[i]]; mean += v; m++; line = line sprintf(" | %.1f", v)
		} else line = line " | –"
		printf "%s | %.1f | %.3f |\n", line, mean / m, loss[arm[j]] / all[arm[j]]
	} }' "$results"
if [ $# -gt 0 ]; then
	echo
	echo "| difference | pairs | accuracy, points | better, equal, worse | validation loss |"
	echo "|---|---|---|---|---|"
fi
while [ $# -gt 1 ]; do
	awk -F, -v a="$1" -v b="$2" 'NR > 1 { acc[$1, $2, $3] = $4; loss[$1, $2, $3] = $5; key[$2 SUBSEP $3] }
	END {
		for (k in key) if ((a, k) in acc && (b, k) in acc) {
			n++; d = acc[a, k] - acc[b, k]; sum += d; squares += d * d
			if (d > 0) up++; else if (d < 0) down++; else same++
			e = loss[a, k] - loss[b, k]; losses += e; losses2 += e * e }
		if (n < 2) { printf "| %s − %s | %d | – | – | – |\n", a, b, n; exit }
		printf "| %s − %s | %d | %+.2f ± %.2f | %d, %d, %d | %+.3f ± %.3f |\n", a, b, n, sum / n, sqrt((squares - sum * sum / n) / (n - 1) / n), up, same, down,
			losses / n, sqrt((losses2 - losses * losses / n) / (n - 1) / n) }' "$results"
	shift 2
done
