package benign

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// register is the sample tenant whose agent keeps PocketBase's records.
func register(t *testing.T, c *console) *rig.Rig {
	t.Helper()
	r := rig.New(t, rig.Options{Edit: func(f map[string][]byte) {
		add("pocketbase.yaml", ":8653", ":"+c.port)(f)
		f["register-ca.pem"] = c.ca
		rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [iam, tickets, pocketbase]")(f)
		rig.Replace("agent.yaml", "capabilities: [reset-mfa]", "capabilities: [reset-mfa, register]")(f)
	}})
	r.Ready(t)
	return r
}

const (
	list = "/api/collections/" + devices + "/records"
	save = "press:btn:Save and close"
	shut = "gone:btn:Save and close" // the drawer, when all is saved
)

// in opens the register's collection.
func in(name string, steps ...string) workflow {
	return wf(name, append([]string{"press:btn:devices", "see:sort:serial"}, steps...)...)
}

var looking = []workflow{
	wf("list the collections", "see:btn:devices", "see:btn:users").sees("text:Collections").reads("/api/collections"),
	in("open a collection", "see:row:device 48").sees("row:device 48", "text:devices").reads(list),
	wf("search the collections", "press:field:Search collections...", "type:devi", "gone:btn:users").sees("btn:devices"),
	in("read a record and close it", "press:row:device 47", "see:text:Edit devices record", "press:btn:Cancel", "gone:text:Edit devices record", "see:row:device 47").
		reads(list + "/" + deviceID(47)),
	in("leave a record by Escape", "press:row:device 46", "see:btn:laboratory", "press:text:Edit devices record", "key:Escape", "see:row:device 46").
		reads(list + "/" + deviceID(46)),
	in("filter the records", "press:field:search", "type:lost = true", "press:btn:Search", "see:row:device 07", "gone:row:device 49").sees("row:device 07"),
	in("filter by Enter and clear", "press:field:search", "type:device 33", "key:Escape", "key:Return", "see:row:device 33", "gone:row:device 49", "press:btn:Clear", "see:row:device 49").sees("row:device 49"),
	in("sort by a column", "press:sort:name", "gone:btn:none", "press:sort:name", "see:row:device 00").sees("row:device 01"),
	in("load the next page", "scroll:down 30", "press:btn:Load more", "gone:btn:Load more", "scroll:down 30", "see:row:device 01"),
	in("hide a column and show it again", "press:btn:Toggle columns", "press:box:serial", "gone:sort:serial", "press:box:serial", "see:sort:serial"),
	in("refresh the list", "press:btn:Refresh", "see:row:device 49").reads(list),
	in("look at the schema", "press:btn:Edit collection", "see:text:Edit collection", "press:btn:API Rules", "press:btn:Cancel", "gone:text:Edit collection", "see:row:device 49"),
	in("look at the accounts", "press:btn:users", "see:sort:email").sees("text:users"),
	wf("look at the logs", "press:btn:Logs", "press:box:Include requests by superusers", "press:field:search", "type:data.status >= 200", "key:Escape", "press:btn:Search", "see:text:Logs").
		reads("/api/logs", "/api/logs/stats"),
	wf("read the settings", "press:btn:Settings", "see:field:Application name").reads("/api/settings"),
	wf("look at backups and crons", "press:btn:Settings", "press:btn:Backups", "see:text:Backups", "press:btn:Crons", "see:text:Crons").reads("/api/backups", "/api/crons"),
}

var keeping = []workflow{
	in("make a record", "press:btn:New record", "press:field:name", "type:wifi probe", "press:btn:- Select -", "press:btn:van", "press:field:serial", "type:4711", "press:box:lost",
		save, shut, "see:row:wifi probe").writes("pocketbase.device.create wifi probe"),
	in("make a record by Enter", "press:btn:New record", "press:field:name", "type:hub\t\t42\n", shut).writes("pocketbase.device.create hub"),
	in("make a record in another script", "press:btn:New record", "press:field:name", "type:Messgerät 東京\t\t42", save, shut).writes("pocketbase.device.create Messgerät 東京"),
	in("change a record", "press:row:device 45", "press:field:serial", "key:ctrl+a", "type:5045", save, shut).writes("pocketbase.device.update " + deviceID(45)),
	in("change a choice and a switch", "press:row:device 44", "press:btn:laboratory", "press:btn:van", "press:box:lost", save, shut).
		writes("pocketbase.device.update " + deviceID(44)),
	in("change a record by keyboard", "press:row:device 43", "press:field:name", "key:End", "type: (new)", "key:Tab*5", "key:Return", shut).writes("pocketbase.device.update " + deviceID(43)),
	in("undo a slip", "press:row:device 46", "press:field:name", "key:End", "type:!!", "key:ctrl+z", "press:field:serial", "key:ctrl+a", "type:5046", save, shut).
		writes("pocketbase.device.update " + deviceID(46)),
	in("begin a change and discard it", "press:row:device 47", "press:field:name", "type:xx", "press:btn:Cancel", "press:btn:Yes", "see:row:device 47").
		reads(list + "/" + deviceID(47)),
	wf("note a visit: a day, a document, a relation, an address", "press:btn:visits", "see:sort:notes", "press:btn:New record", "see:frame:Rich Text Area",
		"press:field:day", "press:day:November 17, 2026", "press:field:meta", "key:ctrl+a", `type:{"drift": 0.2}`, "scroll:down 10 460 125", "press:btn:Open picker", "press:btn:device 47",
		"press:btn:Set selection", "press:field:link", "type:https://reports.example/17?a=b&c=d", save, shut).writes("pocketbase.visit.create"),
	in("copy a record", "press:row:device 48", "still:btn:More record options", "press:btn:More record options", "press:btn:Duplicate", "press:field:name", "key:ctrl+a", "type:second probe", save, shut).
		writes("pocketbase.device.create second probe"),
	in("delete a record", "press:row:device 49", "still:btn:More record options", "press:btn:More record options", "press:btn:Delete", "press:btn:Yes", "gone:row:device 49").
		writes("pocketbase.device.delete " + deviceID(49)).asks("pocketbase.device.delete"),
	wf("rename the application", "press:btn:Settings", "press:field:Application name", "key:ctrl+a", "type:Device register", "press:btn:Save changes", "gone:btn:Cancel").
		writes("pocketbase.settings.update").asks("pocketbase.settings.update"),
}

// Ordinary work on a third party's single page application. Not in it, since the
// boundary does not let an agent do it unasked: to delete several records by one
// press, to send by Enter in a text area, to write in an editor that is a frame,
// to attach a file, to save by a shortcut, and to set a password.
func TestBenignOnPocketBase(t *testing.T) {
	if testing.Short() {
		t.Skip("builds PocketBase and starts a browser")
	}
	c := startConsole(t)
	r := register(t, c)
	var y tally
	y.run(t, r, intent("register"), looking...)
	y.run(t, r, intent("register"), keeping...)
	c.check(t)
	y.report(t, "PocketBase 0.36.8")
}

// check holds what PocketBase itself says against the workflows.
func (c *console) check(t *testing.T) {
	t.Helper()
	got := c.devices(t)
	for _, want := range []device{
		{Name: "wifi probe", Place: "van", Serial: 4711, Lost: true},
		{Name: "Messgerät 東京", Serial: 42},
		{Name: "hub", Serial: 42},
		{Name: "second probe", Place: "laboratory", Serial: 1048},
		{ID: deviceID(46), Name: "device 46", Place: "laboratory", Serial: 5046},
		{ID: deviceID(43), Name: "device 43 (new)", Place: "office", Serial: 1043},
		{ID: deviceID(44), Name: "device 44", Place: "van", Serial: 1044, Lost: true},
		{ID: deviceID(45), Name: "device 45", Place: "office", Serial: 5045},
		{ID: deviceID(47), Name: "device 47", Place: "office", Serial: 1047},
	} {
		have := got[want.Name]
		if want.ID == "" {
			want.ID = have.ID
		}
		if have != want {
			t.Errorf("record %q: got %+v, want %+v", want.Name, have, want)
		}
	}
	var noted struct {
		Items []struct {
			Day, Device, Link string
			Meta              struct{ Drift float64 }
		} `json:"items"`
	}
	c.call(t, "GET", "/api/collections/visits/records", nil, &noted)
	if len(noted.Items) != 1 {
		t.Errorf("visits: %+v", noted.Items)
	} else if v := noted.Items[0]; !strings.HasPrefix(v.Day, "2026-11-1") || v.Device != deviceID(47) || v.Link != "https://reports.example/17?a=b&c=d" || v.Meta.Drift != 0.2 {
		t.Errorf("visit: %+v", v)
	}
	if d, ok := got["device 49"]; ok || len(got) != 53 {
		t.Errorf("there are %d records, want 53 without %+v", len(got), d)
	}
	var settings struct {
		Meta struct {
			AppName string `json:"appName"`
		} `json:"meta"`
	}
	c.call(t, "GET", "/api/settings", nil, &settings)
	if settings.Meta.AppName != "Device register" {
		t.Errorf("the application is called %q", settings.Meta.AppName)
	}
}
