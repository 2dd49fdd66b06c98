# The simulated sky: samples and what they look like, their fidelity, and real pixels through the same readers.
SKY = f"{RESULTS}/sky"


rule sky_samples:
    input:
        notebook="notebooks/sky/1_sky.ipynb",
        modules=modules("notebooks/sky/1_sky.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
    output:
        notebook="book/sky/1_sky.ipynb",
        main=f"{SKY}/main_galaxies.h5",
        both=f"{SKY}/spectroscopic.h5",
    params:
        parameters=parameters("sky/1_sky"),
        partial=partial("sky/1_sky"),
    threads: SHARE
    shell:
        EXECUTE


rule sky_fidelity:
    input:
        notebook="notebooks/sky/2_fidelity.ipynb",
        modules=modules("notebooks/sky/2_fidelity.ipynb"),
        main=rules.sky_samples.output.main,
        both=rules.sky_samples.output.both,
        published=sorted(str(p) for p in Path("data/published/sky").glob("*")),
        margformer="data/published/margformer/audit.json",
    output:
        notebook="book/sky/2_fidelity.ipynb",
        metrics=f"{SKY}/metrics.json",
    params:
        parameters=parameters("sky/2_fidelity"),
        partial=partial("sky/2_fidelity"),
    threads: SHARE
    shell:
        EXECUTE


rule sky_real_pixels:
    input:
        notebook="notebooks/sky/3_real_pixels.ipynb",
        modules=modules("notebooks/sky/3_real_pixels.ipynb"),
        published=sorted(str(p) for p in Path("data/published/sky").glob("*")),
    output:
        notebook="book/sky/3_real_pixels.ipynb",
    params:
        parameters=parameters("sky/3_real_pixels"),
        partial=partial("sky/3_real_pixels"),
    shell:
        EXECUTE
