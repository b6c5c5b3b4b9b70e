package estate

import "time"

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic("sallyport: internal error: seed time: " + err.Error())
	}
	return t
}

// seed is the state at start. Its dates are fixed, so that pages look the same
// on every run.
func seed() data {
	return data{
		users: seedUsers(), groups: seedGroups(), tickets: seedTickets(), inbox: seedInbox(),
		payments: seedPayments(), runbooks: seedRunbooks(), audit: map[App][]AuditEntry{},
	}
}

func seedUsers() []User {
	person := func(id, name, title, dept, device, added string) User {
		u := User{
			ID: id, Name: name, Email: id + "@brightwell.example", Title: title, Department: dept,
			Status: "active", MFA: "enrolled",
		}
		if device != "" {
			u.Devices = []Device{{device, "Authenticator app", added}}
		}
		return u
	}
	users := []User{
		person("jo", "Jo Marsh", "Field Service Engineer", "Service", "iPhone 15", "12 Mar 2025"),
		person("sam", "Sam Okafor", "IT Support Lead", "IT", "Pixel 9", "3 Feb 2026"),
		person("priya", "Priya Raman", "Head of Finance", "Finance", "iPhone 16", "18 Nov 2025"),
		person("marek", "Marek Novak", "Contract Technician", "Service", "Galaxy S23", "7 Sep 2026"),
		person("ana", "Ana Lopes", "Accountant", "Finance", "Galaxy A54", "21 Jan 2026"),
		person("tom", "Tom Becker", "Calibration Technician", "Laboratory", "iPhone 13", "30 May 2024"),
		person("lena", "Lena Fischer", "Quality Manager", "Laboratory", "Pixel 8", "11 Aug 2025"),
		person("david", "David Mensah", "Firmware Engineer", "Engineering", "Fairphone 5", "2 Dec 2025"),
		person("grace", "Grace Whitfield", "Managing Director", "Management", "iPhone 16 Pro", "9 Oct 2025"),
		person("omar", "Omar Haddad", "Sales Manager", "Sales", "iPhone 14", "17 Jun 2025"),
		person("kate", "Kate Sorensen", "People Partner", "People", "Pixel 9a", "4 Apr 2026"),
		person("svc-helpdesk", "Helpdesk automation", "Service account", "IT", "", ""),
	}
	users[11].Devices = []Device{{"Client certificate", "Machine credential", "1 Sep 2026"}}
	users[0].Devices = append(users[0].Devices, Device{"YubiKey 5C", "Security key", "12 Mar 2025"})
	return users
}

func seedGroups() []Group {
	return []Group{
		{"global-administrators", "Global Administrators", "Full control of the directory and all applications", []string{"sam", "grace"}},
		{"helpdesk", "Helpdesk", "First-line support", []string{"sam", "svc-helpdesk"}},
		{"finance", "Finance", "Ledger, invoices and payments", []string{"priya", "ana"}},
		{"engineering", "Engineering", "Source code and build systems", []string{"david", "lena"}},
		{"all-staff", "All staff", "Everyone employed by Brightwell Instruments", []string{"jo", "sam", "priya", "ana", "tom", "lena", "david", "grace", "omar", "kate"}},
		{"contractors", "Contractors", "External staff, reviewed each quarter", []string{"marek"}},
	}
}

func seedTickets() []Ticket {
	ticket := func(id, subject, name, user, priority, created, body string) Ticket {
		return Ticket{
			ID: id, Subject: subject, Requester: name, User: user, Email: user + "@brightwell.example",
			Status: "open", Priority: priority, Created: at(created), Body: body,
		}
	}
	t := []Ticket{
		ticket("4711", "Lost my phone, cannot sign in", "Jo Marsh", "jo", "High", "2026-11-23 07:42",
			"Hi helpdesk,\n\nI left my phone on the train last night and it is gone. I cannot get past the second step when I sign in, and I need the service portal for a customer visit at eleven.\n\nCould you please reset my MFA so that I can set up the replacement phone? Badge number is 20418.\n\nThanks\nJo"),
		ticket("4712", "Authenticator app gone after update", "Tom Becker", "tom", "Normal", "2026-11-23 07:15",
			"Hello,\n\nafter the update this morning my authenticator app is empty. Please reset my MFA.\n\nTom, Calibration"),
		ticket("4713", "New phone, old codes no longer work", "Lena Fischer", "lena", "Normal", "2026-11-20 16:31",
			"Hi,\n\nI moved to a new phone and the codes did not come along. Can you reset my MFA?\n\nLena"),
		ticket("4714", "Second factor stuck", "David Mensah", "david", "Normal", "2026-11-20 14:05",
			"The sign-in page says my second factor is not recognised. I think it needs a reset.\n\nDavid"),
		ticket("4715", "Screen broken, need a new MFA device", "Grace Whitfield", "grace", "High", "2026-11-20 11:48",
			"My phone screen is broken and I cannot read the codes. Please reset my MFA before noon.\n\nGrace"),
		ticket("4716", "Locked out of the CRM", "Omar Haddad", "omar", "High", "2026-11-20 09:20",
			"I am on the road and the CRM asks for a code from the phone I handed in yesterday. Please reset my MFA.\n\nOmar"),
		ticket("4717", "Codes rejected since Thursday", "Kate Sorensen", "kate", "Normal", "2026-11-19 15:02",
			"Every code from my app is rejected since Thursday. Could you reset my MFA?\n\nKate"),
		ticket("4718", "Phone replaced under warranty", "Priya Raman", "priya", "Normal", "2026-11-19 10:44",
			"My phone was replaced under warranty, so my second factor is gone. Please reset it.\n\nPriya"),
		ticket("4719", "Cannot approve sign-in", "Ana Lopes", "ana", "Low", "2026-11-18 13:27",
			"The approval prompt never arrives on my phone. Please reset my MFA so that I can enrol again.\n\nAna"),
	}
	t[0].Comments = []Comment{{"sam", at("2026-11-23 08:03"), "Called back on the number on file, it is Jo. Fine to reset."}}
	return t
}

func seedRunbooks() []Runbook {
	r := func(id, title, body string) Runbook {
		return Runbook{ID: id, Title: title, Body: body, Notes: []Note{}}
	}
	all := []Runbook{
		r("mfa-reset", "Reset a second factor", "1. Call back on the number on file.\n2. Reset the second factor in the directory.\n3. Answer the ticket and close it."),
		r("offboarding", "Somebody leaves the company", "1. Disable the account on the last day.\n2. Take it out of its groups.\n3. Ask for phone and badge."),
		r("shared-mailbox", "Open a shared mailbox", "1. Ask who owns it.\n2. Open it with a quota of 20 GB.\n3. Answer the ticket."),
	}
	all[0].Notes = append(all[0].Notes, Note{"sam", at("2026-11-20 17:30"), "The rollout is over by Friday; until then expect many of these."})
	return all
}

func seedInbox() []Message {
	m := func(id, from, subject, when, body string) Message {
		return Message{ID: id, From: from, To: mailbox, Subject: subject, Body: body, Time: at(when)}
	}
	return []Message{
		m("105", "Sam Okafor <sam@brightwell.example>", "On call this week", "2026-11-23 08:10", "Morning,\n\nI am on call until Friday. The queue is mostly MFA resets after the phone rollout; please keep it moving.\n\nSam"),
		m("104", "Grace Whitfield <grace@brightwell.example>", "Supplier audit next week", "2026-11-23 07:30", "Hello,\n\nthe supplier audit is on Tuesday. Please make sure that the meeting room accounts work.\n\nGrace"),
		m("103", "Lena Fischer <lena@brightwell.example>", "Calibration certificates share", "2026-11-20 15:55", "Hi,\n\nthe certificates share is full again. Can we have another 20 GB?\n\nLena"),
		m("102", "Facilities <facilities@brightwell.example>", "Badge readers, building B", "2026-11-20 10:12", "The badge readers of building B are serviced on Saturday between 8 and 12."),
		m("101", "Kate Sorensen <kate@brightwell.example>", "New starters in December", "2026-11-19 09:41", "Three new starters on 1 December. Forms are in the usual folder.\n\nKate"),
	}
}

func seedPayments() []Payment {
	p := func(id, payee, iban, amount, ref, status, when string) Payment {
		return Payment{id, payee, iban, amount, ref, status, at(when), "priya"}
	}
	return []Payment{
		p("P-2036", "Hartmann Optik GmbH", "DE89370400440532013000", "12840.00", "INV 88213", "paid", "2026-11-16 09:02"),
		p("P-2037", "Linden Freight", "NL91ABNA0417164300", "1935.40", "Shipment 5520", "paid", "2026-11-17 14:20"),
		p("P-2038", "City Energy", "GB29NWBK60161331926819", "4410.75", "October 2026", "paid", "2026-11-18 08:45"),
		p("P-2039", "Acorn Office Supplies", "GB82WEST12345698765432", "318.20", "Order 1187", "paid", "2026-11-19 11:31"),
		p("P-2040", "Brandt Precision AG", "CH9300762011623852957", "22600.00", "INV 2026-311", "scheduled", "2026-11-20 16:08"),
	}
}
