// Package cli assembles the command tree of the daybook binary.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/tools/internal/admincmd"
	"github.com/daybook/daybook/tools/internal/clientcmd"
	"github.com/daybook/daybook/tools/internal/endpoints"
	"github.com/daybook/daybook/tools/internal/fscmd"
	"github.com/daybook/daybook/tools/internal/sqlcmd"
	"github.com/daybook/daybook/tools/internal/standalone"
	"github.com/daybook/daybook/tools/internal/tabular"
)

// Exit statuses of the binary.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Run executes one command line and answers its exit status: 0, 1 if the command failed, 2 if it was
// called wrongly.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(errs, "daybook: %v\n", err)
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(errs, "See '%s --help'.\n", usage.cmd.CommandPath())
		return exitUsage
	}
	// Cobra has no types for these.
	for _, usage := range []string{"unknown command", "required flag(s)", "at least one of the flags", "if any flags in the group"} {
		if !strings.HasPrefix(err.Error(), usage) {
			continue
		}
		fmt.Fprintf(errs, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// A usageError says that a command was called wrongly.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func root() *cobra.Command {
	var adminFlag, serviceFlag string
	cmd := &cobra.Command{
		Use:   "daybook",
		Short: "Event streaming that speaks Pulsar's protocol and whose topics are files",
		Long: `Daybook is event streaming that speaks Apache Pulsar's protocol and whose topics are files.

Start with 'daybook standalone --mount ./mnt'. Commands that talk to a server find it by their flag, by
` + endpoints.AdminEnv + ` or ` + endpoints.ServiceEnv + `, by ./data/endpoints.json, or at ` + endpoints.DefaultAdmin + ` and
` + endpoints.DefaultService + `.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{c, err} })
	cmd.PersistentFlags().StringVar(&adminFlag, "admin-url", "", "URL of the admin API, such as "+endpoints.DefaultAdmin)
	cmd.PersistentFlags().StringVar(&serviceFlag, "service-url", "", "URL of the broker, such as "+endpoints.DefaultService)
	adminURL := func() string { return endpoints.Admin(adminFlag) }

	cmd.AddGroup(
		&cobra.Group{ID: "server", Title: "Servers:"},
		&cobra.Group{ID: "files", Title: "Topics as files:"},
		&cobra.Group{ID: "data", Title: "Messages and queries:"},
		&cobra.Group{ID: "admin", Title: "Administration:"},
	)
	cmd.AddCommand(standalone.Command(Version()))
	cmd.AddCommand(admincmd.Commands(adminURL)...)
	cmd.AddCommand(fscmd.Commands(fscmd.Finder{
		AdminURL: adminURL,
		Local: func(dataDir string) (string, error) {
			e, err := endpoints.Read(dataDir)
			return e.Admin, err
		},
	})...)
	cmd.AddCommand(clientcmd.Commands(func() string { return endpoints.Service(serviceFlag) })...)
	cmd.AddCommand(sqlcmd.Command(adminURL))
	cmd.AddCommand(versionCommand())
	usageErrors(cmd)
	return cmd
}

// usageErrors marks the errors of argument checks, here and below, as wrong calls.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{c, err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}

// version is set by release builds: -ldflags "-X …/cli.version=1.2.3".
var version = ""

// Version is the version of this binary.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	return "0.1.0-dev"
}

func versionCommand() *cobra.Command {
	var format tabular.Format
	cmd := &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := map[string]any{"version": Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if format == tabular.JSON {
				return tabular.WriteJSON(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "daybook %s (%s, %s/%s)\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	tabular.Flag(cmd, &format, tabular.Table, tabular.JSON)
	return cmd
}
