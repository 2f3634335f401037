# Targets for development. 'make' lists them. Every target runs plain commands of Go, which also work
# without make.

BENCH = .
BENCHTIME = 1s
FUZZTIME = 20s

.PHONY: help build test results race faults lint bench docs fuzz ci xla clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-6s  %s\n", $$1, $$2}' Makefile

build: ## build the program ./spt, without cgo
	CGO_ENABLED=0 go build -trimpath ./cmd/spt

test: ## run all tests
	go test ./...

lint: ## check the format, and run go vet and staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not formatted (run gofmt -w):" $$unformatted; exit 1; }
	go vet ./...
	go tool staticcheck ./...

bench: ## run the Go benchmarks (BENCH=regexp BENCHTIME=1s); 'spt bench' measures the machine
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) ./...

docs: ## write docs/cli.md again from the commands
	go test ./cli -run '^TestDocument$$' -update

# The option turns off the checks of pointers in gomlx/compute v0.1.3, whose product of small matrices
# forms a pointer beyond its slice. The race detector turns these checks on.
results: ## collect the sweep folder SWEEP=DIR into docs/results and write the tables of the documents
	go run ./cmd/spt sweep collect $(SWEEP) --out docs/results/$(notdir $(SWEEP)).csv
	go test . -run '^TestTables$$' -update-tables

race: ## run the tests with the race detector (slow; needs a C compiler)
	CGO_ENABLED=1 go test -race -gcflags=github.com/gomlx/compute/...=-d=checkptr=0 ./...

faults: ## kill runs, sweeps and downloads, and make every operation on files of a run fail (needs strace)
	SPT_FAULTS=all go test ./cli -run '^(TestKills|TestSweepKills|TestKilledDownloads|TestFailedOperations)$$' -timeout 120m

fuzz: ## run every fuzz target for FUZZTIME=20s
	@set -e; for target in $$(grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' . | sed 's|/[^/]*_test.go:func |:|'); do \
	echo "== $$target"; go test "$${target%%:*}" -run '^$$' -fuzz "^$${target##*:}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x; done

ci: ## run everything that must hold before a change lands
	.ci/run

xla: ## build the program ./spt for NVIDIA GPUs; needs Linux and a C compiler
	CGO_ENABLED=1 go build -tags xla ./cmd/spt

clean: ## remove the program and the packages of a release
	rm -rf spt spt.exe dist
