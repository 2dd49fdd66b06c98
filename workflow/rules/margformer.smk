# MargFormer and MargNet: the audit on real data.
from astro_utils import registry


rule margformer_audit:
    input:
        notebook="notebooks/margformer/4_audit.ipynb",
        modules=modules("notebooks/margformer/4_audit.ipynb"),
        registry="data/registry.toml",
        published=sorted(str(p) for p in Path("data/published/margformer").glob("*")),
    output:
        notebook="book/margformer/4_audit.ipynb",
        metrics=f"{RESULTS}/margformer/audit/metrics.json",
    params:
        parameters=parameters("margformer/4_audit"),
        partial=partial("margformer/4_audit"),
        # Not used by the command: a dataset that has arrived since makes Snakemake run the audit again.
        data_at_hand=all(registry.available(name) for name in ("margnet_tables", "margnet_networks")),
    threads: workflow.cores
    shell:
        EXECUTE
