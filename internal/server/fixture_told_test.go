package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/server"
)

// What a fixture has tools say goes on record with the task, so it is bounded, and what is
// none is refused by name.
func TestWhatAFixtureTells(t *testing.T) {
	one := func(item, tool, text string) string {
		return fmt.Sprintf(`{"item":%q,"tool":%q,"text":%q}`, item, tool, text)
	}
	all := func(x ...string) string { return `{"on":[],"descriptions":[` + strings.Join(x, ",") + `]}` }
	good := one("x", "note", strings.Repeat("w", 4<<10))
	for name, c := range map[string]struct{ answer, want string }{
		"nothing":       {"", ""},
		"none":          {all(), ""},
		"as_many":       {all(strings.Split(strings.Repeat(good+"\n", 7)+good, "\n")...), ""},
		"one_more":      {all(strings.Split(strings.Repeat(good+"\n", 8)+good, "\n")...), "has tools say 9 things"},
		"too_long":      {all(one("x", "note", strings.Repeat("w", 4<<10+1))), "text of 1 to 4096, not"},
		"long_name":     {all(one(strings.Repeat("x", 65), "note", "w")), "item and tool of 1 to 64 bytes"},
		"no_tool":       {all(one("x", "", "w")), "item and tool of 1 to 64 bytes"},
		"no_item":       {all(one("", "note", "w")), "item and tool of 1 to 64 bytes"},
		"no_text":       {all(one("x", "note", "")), "text of 1 to 4096"},
		"another_shape": {`{"descriptions":"w"}`, "does not say what is on"},
		"garbage":       {"<html>", "does not say what is on"},
	} {
		told, err := server.Hostile(t.Context(), serves(t, []byte(c.answer)), url.Values{})
		if (err != nil) != (c.want != "") || err != nil && (!strings.Contains(err.Error(), c.want) || len(err.Error()) > 500) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if name == "as_many" && len(told) != 8 {
			t.Errorf("%s: got %d", name, len(told))
		}
	}
}
