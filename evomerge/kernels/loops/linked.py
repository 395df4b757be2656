"""Compilers for parts of loops: they stop at LLVM's code, which loops link, and make machine code of, with their own.

numba optimises every function and makes machine code of it before the next one calls it. What is called by what is
called by a loop would go through that once for each of them, which takes most of the time that compiling takes.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Linked(JITCodeLibrary):
    """Code that waits for something else to link it."""

    def finalize(self) -> None:
        """Join what this calls."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()  # type: ignore[no-untyped-call]
        self._finalized = True


class _LinkedOptimised(_Linked):
    """As that, optimised."""

    def finalize(self) -> None:
        """Join what this calls and optimise it."""
        super().finalize()
        self._optimize_final_module()  # type: ignore[no-untyped-call]


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
class _Lowering(NativeLowering):
    """From numba's code to LLVM's."""

    _name = "lowering_of_a_part"
    _library = _Linked

    def run_pass(self, state: Any) -> bool:
        """Register the code under a function that has nothing to run."""
        state.flags.no_compile = True
        state.library = library = self._library(state.targetctx.codegen(), state.func_id.func_qualname)  # type: ignore[no-untyped-call]
        super().run_pass(state)  # type: ignore[no-untyped-call]
        lowered = state["cr"]
        name = lowered.fndesc.qualname.rpartition(".")[2]
        stand_in = _dynfunc.make_function(lowered.fndesc.lookup_module(), name, "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(stand_in, lowered.fndesc, [library])
        state["cr"] = lowered._replace(cfunc=stand_in)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
class _OptimisedLowering(_Lowering):
    _name = "lowering_of_an_optimised_part"
    _library = _LinkedOptimised


class PartCompiler(Compiler):
    """numba's, but for its last steps."""

    lowering: type[NativeLowering] = _Lowering

    def define_pipelines(self) -> Any:
        """All passes, with ours for lowering."""
        pipelines = super().define_pipelines()  # type: ignore[no-untyped-call]
        for pipeline in pipelines:
            passes = [(self.lowering if step is NativeLowering else step, why) for step, why in pipeline.passes]
            pipeline.passes = passes
            pipeline._finalized = False
            pipeline.finalize()
        return pipelines


class OptimisedPartCompiler(PartCompiler):
    """As that, for parts in which LLVM finds less to gain once they are inlined."""

    lowering = _OptimisedLowering
