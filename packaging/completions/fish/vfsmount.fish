function _vfsmount_completion
    set -l program (commandline -opc)[1]
    for line in (env _VFSMOUNT_COMPLETE=fish_complete COMP_WORDS=(commandline -cp | string collect) \
            $program 2>/dev/null </dev/null)
        set -l found (string split -m 1 , -- $line)
        switch $found[1]
            case plain path
                printf '%s\n' $found[2]
            case dir
                __fish_complete_directories (commandline -ct)
            case file
                __fish_complete_path (commandline -ct)
        end
    end
end

complete --no-files --keep-order --command vfsmount --arguments '(_vfsmount_completion)'
