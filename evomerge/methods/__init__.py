"""Merge methods: tensors in, one tensor out. One file per family."""

from __future__ import annotations

from evomerge.registry import Registry

METHODS: Registry[type] = Registry(
    "merge method",
    {
        "linear": "evomerge.methods.average.linear:Linear",
        "task_arithmetic": "evomerge.methods.average.linear:TaskArithmetic",
        "slerp": "evomerge.methods.sphere.spherical:Slerp",
        "nuslerp": "evomerge.methods.sphere.spherical:NuSlerp",
        "multi_slerp": "evomerge.methods.sphere.means:MultiSlerp",
        "karcher": "evomerge.methods.sphere.means:Karcher",
        "model_stock": "evomerge.methods.average.stock:ModelStock",
        "ties": "evomerge.methods.sparse.ties:Ties",
        "dare_linear": "evomerge.methods.sparse.dare:DareLinear",
        "dare_ties": "evomerge.methods.sparse.dare:DareTies",
        "della": "evomerge.methods.sparse.della:Della",
        "della_linear": "evomerge.methods.sparse.della:DellaLinear",
        "breadcrumbs": "evomerge.methods.sparse.breadcrumbs:Breadcrumbs",
        "breadcrumbs_ties": "evomerge.methods.sparse.breadcrumbs:BreadcrumbsTies",
        "sce": "evomerge.methods.sparse.sce:Sce",
        "magmax": "evomerge.methods.sparse.magmax:MagMax",
        "consensus_ta": "evomerge.methods.sparse.tall:ConsensusTaskArithmetic",
        "tall_mask": "evomerge.methods.sparse.tall:TallMask",
        "ram": "evomerge.methods.sparse.ram:Ram",
        "ram_plus": "evomerge.methods.sparse.ram:RamPlus",
        "arcee_fusion": "evomerge.methods.sparse.fusion:ArceeFusion",
        "nearswap": "evomerge.methods.sparse.nearswap:NearSwap",
        "tsv_merge": "evomerge.methods.spectral.singular:TsvMerge",
        "iso_c": "evomerge.methods.spectral.singular:IsoC",
        "iso_cts": "evomerge.methods.spectral.singular:IsoCts",
        "knots_ties": "evomerge.methods.spectral.knots:KnotsTies",
        "wudi": "evomerge.methods.spectral.wudi:Wudi",
        "scaled": "evomerge.methods.average.passthrough:Scaled",
        "passthrough": "evomerge.methods.average.passthrough:Passthrough",
    },
    group="evomerge.merge_methods",
)

__all__ = ["METHODS"]
