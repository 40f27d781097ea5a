// Package sqlcmd is `daybook sql`: SQL from the command line, one statement, a script or a dialogue, over Trino's
// protocol.
package sqlcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/daybook/daybook/query/client"
	"github.com/daybook/daybook/tools/internal/endpoints"
	"github.com/daybook/daybook/tools/internal/tabular"
)

// Command is `daybook sql`. adminURL answers where the server is.
func Command(adminURL func() string) *cobra.Command {
	var statement, server, schema string
	var format tabular.Format
	cmd := &cobra.Command{
		Use: "sql", Short: "query topics with SQL", GroupID: "data", Args: cobra.NoArgs,
		Long: `Query topics with SQL. Tables are topics: pulsar."tenant/namespace"."topic", or just the topic's name in public/default.

With -e it runs that text; without, statements that end with a semicolon are read from standard input, in a dialogue if it is
a terminal. The columns are those of the topic's schema and __partition__, __event_time__, __publish_time__,
__message_id__, __sequence_id__, __producer_name__, __key__ and __properties__.`,
		Example: `  daybook sql -e "SELECT count(*) FROM earthquakes"
  daybook sql -o csv -e "SELECT * FROM pulsar.\"public/default\".earthquakes LIMIT 10"
  daybook sql < report.sql`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if server == "" {
				server = adminURL()
			}
			if err := endpoints.CheckAdmin(server); err != nil {
				return err
			}
			c := &client.Client{Server: strings.TrimRight(server, "/"), Schema: schema, Source: "daybook sql", User: userName()}
			s := &session{client: c, format: format, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr()}
			switch in, isFile := cmd.InOrStdin().(*os.File); {
			case cmd.Flags().Changed("execute"):
				return s.script(cmd.Context(), strings.NewReader(statement))
			case isFile && term.IsTerminal(int(in.Fd())):
				return s.dialogue(cmd.Context(), in)
			default:
				return s.script(cmd.Context(), cmd.InOrStdin())
			}
		},
	}
	cmd.Flags().StringVarP(&statement, "execute", "e", "", "run this text and exit")
	cmd.Flags().StringVar(&server, "server", "", "URL of the server (default: that of --admin-url)")
	cmd.Flags().StringVar(&schema, "schema", "", "namespace of unqualified tables (default: public/default)")
	tabular.Flag(cmd, &format, tabular.Table, tabular.JSON, tabular.CSV)
	return cmd
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// A session runs statements one after the other and prints their results.
type session struct {
	client *client.Client
	format tabular.Format
	out    io.Writer
	errs   io.Writer
}

// maxScript bounds the text of a script in memory.
const maxScript = 64 << 20

// script runs all statements of r; the last one needs no semicolon. It ends with the first that fails.
func (s *session) script(ctx context.Context, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err != nil {
		return err
	}
	if len(b) > maxScript {
		return fmt.Errorf("script is longer than %d MiB", maxScript>>20)
	}
	statements, rest := split(string(b))
	if strings.TrimSpace(rest) != "" {
		statements = append(statements, strings.TrimSpace(rest))
	}
	if len(statements) == 0 {
		return errors.New("no statement: give one with -e or on standard input")
	}
	for _, text := range statements {
		if _, err := s.run(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// dialogue reads statements from a terminal until its end or "exit".
func (s *session) dialogue(ctx context.Context, in *os.File) error {
	fmt.Fprintf(s.out, "SQL on %s; statements end with a semicolon, Ctrl-D leaves.\n", s.client.Server)
	lines := bufio.NewReader(in)
	var text string
	for {
		if text == "" {
			fmt.Fprint(s.out, "daybook> ")
		} else {
			fmt.Fprint(s.out, "     ... ")
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			fmt.Fprintln(s.out)
			return nil
		}
		if w := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), ";")); text == "" && (w == "exit" || w == "quit") {
			return nil
		}
		var statements []string
		statements, text = split(text + line)
		if strings.TrimSpace(text) == "" {
			text = ""
		}
		for _, st := range statements {
			begin := time.Now()
			n, err := s.run(ctx, st)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fmt.Fprintln(s.errs, err)
				continue
			}
			if n >= 0 {
				noun := "rows"
				if n == 1 {
					noun = "row"
				}
				fmt.Fprintf(s.out, "(%d %s, %.3f s)\n", n, noun, time.Since(begin).Seconds())
			}
		}
	}
}

// run runs one statement and prints its answer; it returns the number of rows, -1 for a statement without any.
func (s *session) run(ctx context.Context, text string) (int, error) {
	rows, err := s.client.Execute(ctx, text)
	if err != nil {
		return 0, s.explain(err)
	}
	defer rows.Close()
	if u := rows.UpdateType(); u != "" && len(rows.Columns()) == 0 {
		fmt.Fprintln(s.errs, u)
		return -1, nil
	}
	n, err := print(s.out, result{rows}, s.format)
	if err != nil {
		return n, s.explain(err)
	}
	for _, w := range rows.Warnings() {
		fmt.Fprintln(s.errs, "warning:", w)
	}
	return n, nil
}

func (s *session) explain(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok {
		if e.Location != nil {
			return fmt.Errorf("line %d:%d: %s (%s)", e.Location.Line, e.Location.Column, strings.TrimPrefix(e.Message, fmt.Sprintf("line %d:%d: ", e.Location.Line, e.Location.Column)), e.Name)
		}
		return fmt.Errorf("%s (%s)", e.Message, e.Name)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return endpoints.Unreachable(s.client.Server, "--server", ue.Err)
	}
	return err
}
