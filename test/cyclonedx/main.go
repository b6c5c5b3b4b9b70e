// Command cyclonedx reads a bill of materials from standard input by CycloneDX'
// own library, and says what it has understood, one line for each component.
// The library's module also holds the official JSON schemas.
package main

import (
	"fmt"
	"os"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(os.Stdin, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	agent := bom.Metadata.Component
	fmt.Println(bom.SpecVersion, agent.Type, agent.Name, agent.Version)
	for _, c := range *bom.Components {
		line := fmt.Sprintf("%s %s", c.Type, c.Name)
		if c.Version != "" {
			line += " " + c.Version
		}
		if c.Supplier != nil {
			line += " of " + c.Supplier.Name
		}
		if c.Hashes != nil {
			for _, h := range *c.Hashes {
				line += fmt.Sprintf(" %s:%.8s", h.Algorithm, h.Value)
			}
		}
		fmt.Println(line)
	}
}
