// Command spt fine-tunes pretrained vision transformers for image tasks. It tunes under one percent
// of their weights. The command line is [cli.Main].
package main

import (
	"os"

	"github.com/sptune/spt/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
