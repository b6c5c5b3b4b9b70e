// Command pocketbase is PocketBase as its project publishes it, at a pinned
// version, with nothing added: a third party's admin console for the tests of
// package benign. It is a module of its own, so that its dependencies are none
// of the product's.
package main

import (
	"log"

	"github.com/pocketbase/pocketbase"
)

func main() {
	if err := pocketbase.New().Start(); err != nil {
		log.Fatal(err)
	}
}
