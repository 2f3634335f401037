// Command spt tunes pretrained vision transformers for image tasks by tuning under one percent of
// their weights.
package main

import (
	"os"

	"github.com/sptune/spt/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
