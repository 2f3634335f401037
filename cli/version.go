package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backend"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version",
		Long:    "Prints the version of spt, the version of Go that built it, and the backend.",
		Example: "  spt version --json",
		Args:    noArguments,
		RunE: a.verb(func(context.Context, []string) error {
			be, _, err := backend.Open("cpu", 1)
			if err != nil {
				return err
			}
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
				Backend  string `json:"backend"`
			}{spt.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, be.Description()}
			if a.json {
				return a.writeJSON(v)
			}
			return a.write(fmt.Sprintf("spt %s, %s, %s, backend %s\n", v.Version, v.Go, v.Platform, v.Backend))
		}),
	}
}
