package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func sendCommand(std stdio) *cobra.Command {
	var slot int
	cmd := &cobra.Command{
		Use:   "send APP [--slot K] JSON",
		Short: "send a message to an app's workers",
		Long: `send hands a JSON value to every worker, or to that of one slot, over the
message channel. Where JSON is - it is read from stdin; a number below zero
comes after --. It exits 1 when no worker took it.`,
		Example: `  forkd send shop '{"do":"flush"}'
  forkd send shop --slot 0 '"hello"'
  forkd send shop - <message.json`,
		Args:              exactly(2),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			message, err := readMessage(std, args[1])
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("slot") {
				message.Slot = &slot
			}
			if err := message.Check(); err != nil {
				hint := ""
				if !json.Valid(message.Message) {
					hint = `; a string has quotes of its own: '"text"'`
				}
				return usage("%v%s", err, hint)
			}
			return withApp(cmd, args[:1], func(client *control.Client) error {
				name := client.At().Name
				sent, err := client.Send(cmd.Context(), message)
				if err != nil {
					return argumentError(name, err)
				}
				fmt.Fprintf(std.out, "%s: handed to %s\n", name, plural(sent.Workers, "worker"))
				return nil
			})
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%s: see %s --help; a JSON that begins with - comes after --, as in forkd send APP -- -1", flagText(err), cmd.CommandPath())
	})
	cmd.Flags().IntVar(&slot, "slot", 0, "only to the worker of slot `K`")
	return cmd
}

// readMessage is the message in an argument, or on stdin for "-".
func readMessage(std stdio, arg string) (control.Message, error) {
	if arg != "-" {
		return control.Message{Message: json.RawMessage(arg)}, nil
	}
	const most = 8 << 20 // bytes: with white space it may be larger than a message
	data, err := io.ReadAll(io.LimitReader(std.in, most+1))
	switch {
	case err != nil:
		return control.Message{}, fmt.Errorf("cannot read the message from stdin: %v", err)
	case len(data) > most:
		return control.Message{}, usage("cannot send the message: stdin has more than %d bytes", most)
	}
	return control.Message{Message: data}, nil
}
