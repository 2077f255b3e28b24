"""OCI runtime: a config.json becomes a launch plan, a plan becomes a container.

launch     create, start, adopt, exec, reap         validate   what a config may say
defaults   Docker's default config, piece by piece  translate  config -> plan
filters    compiled seccomp profiles, cached        rootfs     what the caller hands over beside the config
"""
