# ASTRA: simulated galaxies, networks and ours, results, the audit, real spectra, a reader's own folders.
ASTRA = f"{RESULTS}/astra"
ASTRA_PUBLISHED = sorted(str(p) for p in Path("data/published/astra").glob("*"))


rule astra_galaxies:
    input:
        notebook="notebooks/astra/1_galaxies.ipynb",
        modules=modules("notebooks/astra/1_galaxies.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
    output:
        notebook="book/astra/1_galaxies.ipynb",
        sample=f"{ASTRA}/galaxies.h5",
    params:
        parameters=parameters("astra/1_galaxies"),
        partial=partial("astra/1_galaxies"),
    threads: SHARE
    shell:
        EXECUTE


rule astra_train:
    input:
        notebook="notebooks/astra/2_train.ipynb",
        modules=modules("notebooks/astra/2_train.ipynb"),
        sample=rules.astra_galaxies.output.sample,
    output:
        notebook="book/astra/2_train.ipynb",
        metrics=f"{ASTRA}/metrics.json",
        ablation=f"{ASTRA}/ablation.json",
        gallery=f"{ASTRA}/gallery.npz",
        galaxies=f"{ASTRA}/galaxies.parquet",
        residual=f"{ASTRA}/residual.parquet",
    params:
        parameters=parameters("astra/2_train"),
        partial=partial("astra/2_train"),
    threads: SHARE
    shell:
        EXECUTE


rule astra_results:
    input:
        notebook="notebooks/astra/3_results.ipynb",
        modules=modules("notebooks/astra/3_results.ipynb"),
        metrics=rules.astra_train.output.metrics,
        published=ASTRA_PUBLISHED,
    output:
        notebook="book/astra/3_results.ipynb",
    params:
        parameters=parameters("astra/3_results"),
        partial=partial("astra/3_results"),
    shell:
        EXECUTE


rule astra_audit:
    input:
        notebook="notebooks/astra/4_audit.ipynb",
        modules=modules("notebooks/astra/4_audit.ipynb"),
        sample=rules.astra_galaxies.output.sample,
        ablation=rules.astra_train.output.ablation,
        published=ASTRA_PUBLISHED,
    output:
        notebook="book/astra/4_audit.ipynb",
        metrics=f"{ASTRA}/audit.json",
    params:
        parameters=parameters("astra/4_audit"),
        partial=partial("astra/4_audit"),
    shell:
        EXECUTE


rule astra_real:
    input:
        notebook="notebooks/astra/5_real.ipynb",
        modules=modules("notebooks/astra/5_real.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
        published=ASTRA_PUBLISHED,
    output:
        notebook="book/astra/5_real.ipynb",
        metrics=f"{ASTRA}/real.json",
    params:
        parameters=parameters("astra/5_real"),
        partial=partial("astra/5_real"),
    shell:
        EXECUTE


rule astra_own:
    input:
        notebook="notebooks/astra/6_own.ipynb",
        modules=modules("notebooks/astra/6_own.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
    output:
        notebook="book/astra/6_own.ipynb",
    params:
        parameters=parameters("astra/6_own"),
        partial=partial("astra/6_own"),
    shell:
        EXECUTE
