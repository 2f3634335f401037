package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/backend"
)

func devicesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "devices", Short: "List the devices, and why some cannot be used",
		Long: `Lists the processor, the NVIDIA GPUs that the driver reports, and the PJRT plug-ins. If spt was
built with '-tags xla', it computes on a GPU with such a plug-in. The command looks for plug-ins
in the folders of PJRT_PLUGIN_LIBRARY_PATH and LD_LIBRARY_PATH, in the folders of GoMLX, and in
the Python packages jax-cuda13-pjrt and jax-cuda12-pjrt. It starts no device and downloads
nothing.`,
		Example: "  spt devices --json",
		Args:    noArguments,
		RunE: a.verb(func(context.Context, []string) error {
			devices, plugins := backend.Devices(), backend.Plugins()
			if a.json {
				return a.writeJSON(struct {
					Devices []backend.Device `json:"devices"`
					Plugins []backend.Plugin `json:"plugins"`
				}{devices, append([]backend.Plugin{}, plugins...)})
			}
			used := func(unused string) string {
				if unused == "" {
					return "yes"
				}
				return "no: " + unused
			}
			text := table(func(w io.Writer) {
				fmt.Fprintln(w, "device\tdescription\tusable")
				for _, d := range devices {
					fmt.Fprintf(w, "%s\t%s\t%s\n", d.Name, d.Description, used(d.Unused))
				}
			})
			if len(plugins) > 0 {
				text += "\n" + table(func(w io.Writer) {
					fmt.Fprintln(w, "plug-in\tpath\tfound in\tusable")
					for _, p := range plugins {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.Path, p.From, used(p.Unused))
					}
				})
			}
			return a.write(text)
		}),
	}
}
