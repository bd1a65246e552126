"""An import contract: only a room imports the modules inside it.

A room is a sub-package of a root package; others import its face, the package itself.
"""

import grimp
from importlinter import Contract, ContractCheck, fields, output


class RoomsContract(Contract):
    """Lists the imports that bypass a room's face.

    Attributes:
        packages: The root packages whose sub-packages are rooms.
    """

    packages = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        broken = []
        for package in self.packages:
            for room in graph.find_children(package):
                inside = graph.find_descendants(room)
                for module in inside:
                    importers = graph.find_modules_that_directly_import(module)
                    broken += [(importer, module) for importer in importers - inside - {room}]
        return ContractCheck(kept=not broken, metadata={"broken": sorted(broken)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["broken"]:
            face = ".".join(imported.split(".")[:2])
            output.print_error(f"{importer} imports {imported}; import it from {face}.")
